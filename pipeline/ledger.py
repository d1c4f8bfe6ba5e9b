"""submissions/: every run with its recipe and cross-validation, every upload with its scores, side by side."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RunError
from pipeline.files import write_json

SUBMISSIONS = Path("submissions")


@dataclass(frozen=True)
class Upload:
    """A file that was sent to Kaggle, or is about to be."""

    sha256: str
    run: str
    file: str
    message: str
    date: str
    """When it was sent, UTC."""
    ref: int | None = None
    """Kaggle's number; None: begun, and not known whether it arrived."""
    status: str = "begun"
    """begun, pending, complete or error."""
    public: float | None = None
    private: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """A run, and its best upload if it has one."""

    run: str
    recipe: str
    members: str
    folds: int
    cv: float | None
    cv_low: float | None
    cv_high: float | None
    minutes: float | None
    public: float | None
    private: float | None
    status: str
    date: str


class Ledger:
    """The book of a folder of runs. Uploads stand in its ledger.json; what a run is stands in the run's own folder."""

    def __init__(self, submissions: Path) -> None:
        self._submissions = submissions
        self._path = submissions / "ledger.json"

    def uploads(self) -> list[Upload]:
        """Return all uploads, the oldest first. Raises RunError if the book is damaged."""
        if not self._path.exists():
            return []
        try:
            return [Upload(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self._path} can't be read ({error}); mend it, or move it away to begin another") from None

    def of_file(self, sha256: str) -> list[Upload]:
        """Return the uploads of a file, by its SHA-256, the oldest first."""
        return [upload for upload in self.uploads() if upload.sha256 == sha256]

    def keep(self, upload: Upload) -> None:
        """Write an upload down in place of what stood there of it; its message is like no other's."""
        with self._writing():
            others = [u for u in self.uploads() if u.message != upload.message]
            write_json(self._path, [asdict(each) for each in (*others, upload)])

    def rows(self) -> list[Row]:
        """Return every run, the newest first."""
        by_run: dict[str, list[Upload]] = {}
        for upload in self.uploads():
            by_run.setdefault(upload.run, []).append(upload)
        folders = sorted(path.parent for path in self._submissions.glob("*/environment.json"))
        rows = [_row(folder, by_run.get(folder.name, ())) for folder in folders]
        return sorted(rows, key=lambda row: (row.date, row.run), reverse=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._submissions.mkdir(parents=True, exist_ok=True)
        with (self._submissions / ".ledger.lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _row(folder: Path, uploads: Sequence[Upload]) -> Row:
    environment, metrics = _json(folder / "environment.json"), _json(folder / "metrics.json")
    members = metrics.get("members", {})
    blend = metrics.get("blend", {})
    low, high = blend.get("accuracy_95", (None, None))
    seconds = sum(member["compute"]["training_seconds"] for member in members.values())
    best = max(uploads, key=lambda upload: (upload.private or upload.public or 0, upload.date), default=None)
    return Row(
        run=folder.name,
        recipe=environment.get("recipe", ""),
        members=", ".join(members),
        folds=max((len(member["folds"]) for member in members.values()), default=0),
        cv=blend.get("accuracy"),
        cv_low=low,
        cv_high=high,
        minutes=seconds / 60 if seconds else None,
        public=best.public if best else None,
        private=best.private if best else None,
        status=best.status if best else "",
        date=environment.get("date", ""),
    )


def _json(path: Path) -> dict[str, Any]:
    """Return a run's file, or nothing where the run has not come so far; one broken run must not hide the others."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
