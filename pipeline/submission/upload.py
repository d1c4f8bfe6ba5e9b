"""A checked submission -> Kaggle, once, and its scores -> the ledger."""

import hashlib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.submission.kaggle_client import LIMIT_RESET_MESSAGE, Kaggle, Score
from pipeline.errors import KaggleError
from pipeline.ledger import Ledger, Upload
from pipeline.console import describe_scores


def submit(
    kaggle: Kaggle, ledger: Ledger, file: Path, *, run: str, message: str, again: bool, wait_seconds: float
) -> Upload:
    """Upload a file unless that was done before, wait for its score, and write both down.

    The book knows of an upload before it begins, so a stop at any place leads to one submission and not to two.
    Raises KaggleError also for a score that is an error, or that did not come in time.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    earlier = ledger.of_file(digest)
    upload = earlier[-1] if earlier else None
    if upload is not None and upload.ref is None:
        upload = _lookup_upload(kaggle, upload)
        ledger.keep(upload)
    if upload is not None and upload.ref is not None and upload.status != "pending":
        if not again:
            without_score = upload.reason or ("no score" if upload.status == "complete" else upload.status)
            raise KaggleError(
                f"{file} was uploaded on {upload.date} as submission {upload.ref} "
                f"({', '.join(describe_scores(upload)) or without_score}); --again uploads it once more"
            )
        upload = None
    if upload is None or upload.ref is None:
        upload = _send(kaggle, ledger, file, digest, run, message, len(earlier))
    assert upload.ref is not None
    if wait_seconds:
        upload = _with_score(upload, kaggle.wait(upload.ref, wait_seconds))
        ledger.keep(upload)
        if upload.status == "error":
            raise KaggleError(
                f"Kaggle could not score submission {upload.ref} of {file}: {upload.reason or 'no reason given'}"
            )
        if upload.status == "pending":
            raise KaggleError(
                f"submission {upload.ref} has no score after {wait_seconds:.0f} s. It is uploaded and in the ledger; "
                "python run.py runs --refresh fetches the score later"
            )
    return upload


def refresh(kaggle: Kaggle, ledger: Ledger) -> list[Upload]:
    """ModelPass for every score that is missing in the book; return the uploads that have one now."""
    news = []
    for upload in ledger.uploads():
        if upload.status not in ("begun", "pending"):
            continue
        known = _lookup_upload(kaggle, upload) if upload.ref is None else _with_score(upload, kaggle.score(upload.ref))
        if known != upload:
            ledger.keep(known)
            news.append(known)
    return news


def _send(kaggle: Kaggle, ledger: Ledger, file: Path, digest: str, run: str, message: str, num_earlier: int) -> Upload:
    if kaggle.num_allowed() < 1:
        raise KaggleError(f"Kaggle allows no more submissions now; {file} was not uploaded. {LIMIT_RESET_MESSAGE}")
    mark = f"[sha256:{digest[:12]}]" if num_earlier == 0 else f"[sha256:{digest[:12]} upload {num_earlier + 1}]"
    upload = Upload(digest, run, str(file), f"{message} {mark}", datetime.now(UTC).isoformat(timespec="seconds"))
    ledger.keep(upload)
    ref = kaggle.upload(file, upload.message, mark)
    upload = replace(upload, ref=ref, status="pending")
    ledger.keep(upload)
    return upload


def _lookup_upload(kaggle: Kaggle, upload: Upload) -> Upload:
    """Look up an upload that was begun; it is as it was if Kaggle has none with its mark."""
    score = kaggle.find(upload.message[upload.message.rindex("[") :])
    return upload if score is None else _with_score(upload, score)


def _with_score(upload: Upload, score: Score) -> Upload:
    """Return an upload with what Kaggle says of it; both use the same names for the same things."""
    return replace(upload, **asdict(score))
