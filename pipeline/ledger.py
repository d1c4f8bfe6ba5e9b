"""submissions/: every run with its config and cross-validation, every upload with its scores."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import RunError
from pipeline.files import write_json
from pipeline.locks import file_lock
from pipeline.results import Metrics

SUBMISSIONS = Path("submissions")


@dataclass(frozen=True)
class Upload:
    """A file that was sent to Kaggle, or is about to be."""

    # Unknown keys would be lost when it is saved.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sha256: str
    run: str
    file: str
    message: str
    date: str
    """When the upload started, UTC; empty: unknown, Kaggle had it and the ledger did not."""
    ref: int | None = None
    """Kaggle's reference number; None: started, and unknown whether it arrived."""
    status: str = "started"
    """started, pending, complete or error."""
    public: float | None = None
    private: float | None = None
    reason: str = ""
    """Of the status error."""

    @property
    def tag(self) -> str:
        """The end of the message, which identifies the upload at Kaggle."""
        return self.message[max(self.message.rfind("["), 0) :]

    @property
    def scores(self) -> dict[str, float]:
        """The known scores: public, private, both or none."""
        scores = {"public": self.public, "private": self.private}
        return {name: score for name, score in scores.items() if score is not None}


UPLOADS = TypeAdapter(list[Upload])


@dataclass(frozen=True)
class RunRow:
    """A run, and its best upload if it has one."""

    run: str
    config: str
    members: str
    folds: int
    refits: int
    """Models of each member that are trained on all training images; `cv` is measured on the folds alone."""
    cv: float | None
    cv_low: float | None
    cv_high: float | None
    minutes: float | None
    public: float | None
    private: float | None
    status: str
    date: str


class Ledger:
    """All runs and uploads: uploads are stored in ledger.json, runs are read from their own folders."""

    def __init__(self, submissions: Path) -> None:
        self._submissions = submissions
        self._path = submissions / "ledger.json"

    def uploads(self) -> list[Upload]:
        """Return all uploads, the oldest first. Raises RunError if ledger.json is corrupted."""
        if not self._path.exists():
            return []
        try:
            return UPLOADS.validate_json(self._path.read_text(encoding="utf-8-sig"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {first['msg']}" if where else first["msg"]
        except (OSError, ValueError) as error:
            problem = str(error)
        raise RunError(f"{self._path} can't be read ({problem}); fix it, or move it away to start a new one")

    def uploads_of(self, sha256: str) -> list[Upload]:
        """Return the uploads of a file, by its SHA-256, the oldest first."""
        return [upload for upload in self.uploads() if upload.sha256 == sha256]

    def upload_lock(self) -> AbstractContextManager[None]:
        """Hold the lock of the only process that uploads: from the look into the ledger to the reference number."""
        return file_lock(self._submissions / ".upload.lock", wait_for="it uploads a submission")

    def record_upload(self, upload: Upload) -> None:
        """Insert an upload, or replace the one with the same message (messages are unique)."""
        with file_lock(self._submissions / ".ledger.lock", wait_for="it writes the ledger"):
            others = [other for other in self.uploads() if other.message != upload.message]
            write_json(self._path, [asdict(each) for each in (*others, upload)])

    def rows(self) -> list[RunRow]:
        """Return every run, the newest first."""
        by_run: dict[str, list[Upload]] = {}
        for upload in self.uploads():
            by_run.setdefault(upload.run, []).append(upload)
        folders = sorted(path.parent for path in self._submissions.glob("*/environment.json"))
        rows = [_run_row(folder, by_run.get(folder.name, ())) for folder in folders]
        return sorted(rows, key=lambda row: (row.date, row.run), reverse=True)


def _run_row(folder: Path, uploads: Sequence[Upload]) -> RunRow:
    environment, metrics = _read_environment(folder), _read_metrics(folder)
    members, pretrained = metrics.members, environment.get("pretrained", ())
    scores = metrics.ensemble.scores if metrics.ensemble is not None else None
    low, high = scores.accuracy_ci95 if scores is not None else (None, None)
    seconds = sum(member.compute.training_seconds for member in members.values())
    best = max(uploads, key=lambda upload: (upload.private or upload.public or 0, upload.date), default=None)
    return RunRow(
        run=folder.name,
        config=str(environment.get("config", "")),
        members=", ".join(f"{name} (pretrained)" if name in pretrained else name for name in members),
        folds=max((len(member.folds) for member in members.values()), default=0),
        refits=max((len(member.refits) for member in members.values()), default=0),
        cv=scores.accuracy if scores is not None else None,
        cv_low=low,
        cv_high=high,
        minutes=seconds / 60 if seconds else None,
        public=best.public if best else None,
        private=best.private if best else None,
        status=best.status if best else "",
        date=str(environment.get("date", "")),
    )


# One corrupted run must not hide the others: what can't be read is shown as missing.


def _read_environment(folder: Path) -> dict[str, Any]:
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return environment if isinstance(environment, dict) else {}


def _read_metrics(folder: Path) -> Metrics:
    try:
        return Metrics.model_validate_json((folder / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return Metrics(members={})
