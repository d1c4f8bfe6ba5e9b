"""A checked submission -> Kaggle, once, and its scores -> the ledger."""

import hashlib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import KaggleError
from pipeline.ledger import Ledger, Upload
from pipeline.progress import log
from pipeline.submission.kaggle_answers import Score
from pipeline.submission.kaggle_client import KaggleClient
from pipeline.submission.kaggle_errors import LIMIT_RESET_MESSAGE


def submit(
    client: KaggleClient,
    ledger: Ledger,
    file: Path,
    *,
    name: str,
    run: str,
    message: str,
    again: bool,
    wait_seconds: float,
) -> Upload:
    """Upload a file once, wait for its score, and record both in the ledger, under a name.

    The upload is recorded before it starts, so an interruption at any point leads to one submission and not to two. Of
    two processes the second waits until the first has a reference number, and then finds its upload. Raises KaggleError
    if the file was uploaded before, unless `again`, for a status of error, and for a score that is not there in time.
    """
    with ledger.upload_lock():
        upload = _upload_once(client, ledger, file, name=name, run=run, message=message, again=again)
    assert upload.ref is not None
    if wait_seconds:
        upload = _with_score(upload, client.wait(upload.ref, wait_seconds))
        if upload.status != "pending":  # another process may have recorded the score meanwhile
            ledger.record_upload(upload)
        if upload.status == "error":
            raise KaggleError(
                f"Kaggle could not score submission {upload.ref} of {name}: {upload.reason or 'no reason given'}"
            )
        if upload.status == "pending":
            raise KaggleError(
                f"submission {upload.ref} has no score after {wait_seconds:.0f} s. It is uploaded and in the ledger; "
                "python run.py runs --refresh fetches the score later"
            )
    return upload


def _upload_once(
    client: KaggleClient, ledger: Ledger, file: Path, *, name: str, run: str, message: str, again: bool
) -> Upload:
    """Upload a file unless it was uploaded before. Raises KaggleError if it has a score, unless `again`."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    earlier = ledger.uploads_of(sha256) or _recover(client, ledger, name, sha256, run, message)
    upload = earlier[-1] if earlier else None
    if again and upload is not None and upload.ref is not None and upload.status == "pending":
        raise KaggleError(
            f"{name} has no score yet, as submission {upload.ref}; it was not uploaded again. Without --again the "
            "command waits for the score"
        )
    if upload is not None and upload.ref is None:
        upload = _lookup_upload(client, upload)
        ledger.record_upload(upload)
    if upload is not None and upload.ref is not None and upload.status != "pending":
        if not again:
            raise KaggleError(_already_uploaded(name, upload))
        upload = None
    if upload is None or upload.ref is None:
        if client.num_allowed() < 1:
            raise KaggleError(f"Kaggle allows no more submissions now; {name} was not uploaded. {LIMIT_RESET_MESSAGE}")
        upload = _new_upload(name, sha256, run, message, number=len(earlier) + 1)
        ledger.record_upload(upload)
        upload = replace(upload, ref=client.upload(file, upload.message, upload.tag), status="pending")
        ledger.record_upload(upload)
    return upload


def refresh(client: KaggleClient, ledger: Ledger) -> list[Upload]:
    """Fetch every score that is missing in the ledger; return the uploads that changed."""
    changed: list[Upload] = []
    if not any(map(_is_unfinished, ledger.uploads())):
        return changed
    with ledger.upload_lock():
        for upload in filter(_is_unfinished, ledger.uploads()):
            if upload.ref is None:
                current = _lookup_upload(client, upload)
            else:
                current = _with_score(upload, client.score(upload.ref))
            if current != upload:
                ledger.record_upload(current)
                changed.append(current)
    return changed


def _is_unfinished(upload: Upload) -> bool:
    """Whether Kaggle may know more about an upload than the ledger."""
    return upload.ref is None or upload.status == "pending"


def _already_uploaded(name: str, upload: Upload) -> str:
    scores = ", ".join(f"{split} {score:.4f}" for split, score in upload.scores.items())
    without_score = upload.reason or ("no score" if upload.status == "complete" else upload.status)
    date = f"on {upload.date}" if upload.date else "before"
    return (
        f"{name} was uploaded {date} as submission {upload.ref} ({scores or without_score}); "
        "--again uploads it once more"
    )


def _recover(client: KaggleClient, ledger: Ledger, name: str, sha256: str, run: str, message: str) -> list[Upload]:
    """Record the uploads of a file that Kaggle has and the ledger does not, as after the ledger was moved away."""
    uploads: list[Upload] = []
    while True:
        started = _new_upload(name, sha256, run, message, number=len(uploads) + 1)
        upload = _lookup_upload(client, replace(started, date=""))
        if upload.ref is None:
            return uploads
        log.info("Kaggle has submission %d of %s, which the ledger does not have: recorded", upload.ref, name)
        ledger.record_upload(upload)
        uploads.append(upload)


def _new_upload(name: str, sha256: str, run: str, message: str, *, number: int) -> Upload:
    """Return the entry of a file's upload, the first, second, ... one, before it starts."""
    tag = f"[sha256:{sha256[:12]}]" if number == 1 else f"[sha256:{sha256[:12]} upload {number}]"
    name, message = (text.encode("utf-8", "backslashreplace").decode() for text in (name, message))
    return Upload(sha256, run, name, f"{message} {tag}", datetime.now(UTC).isoformat(timespec="seconds"))


def _lookup_upload(client: KaggleClient, upload: Upload) -> Upload:
    """Look up an upload that was started; it is unchanged if Kaggle has no submission with its tag."""
    score = client.find(upload.tag)
    return upload if score is None else _with_score(upload, score)


def _with_score(upload: Upload, score: Score) -> Upload:
    """Return an upload with its status and scores; the field names of both classes match."""
    return replace(upload, **asdict(score))
