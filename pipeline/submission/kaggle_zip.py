"""Kaggle's zip file in an input folder: whether it is complete, and where an interrupted download of it is."""

import errno
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.error_messages import explain_error
from pipeline.errors import KaggleError
from pipeline.task import Task

MARKER = ".kaggle-partial"  # the client's file beside a download that can be resumed


class PartialDownload:
    """The folder of an unfinished download; only the files of this download are touched."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder = folder / ".download"
        self.file = self.folder / f"{task.competition}.zip"  # named by the client
        self._marker = self.file.with_name(self.file.name + MARKER)

    def prepare(self) -> None:
        """Make the folder; keep a file in it only if the client can resume its download, and it is not a web page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self._marker.exists() and self._is_zip()):
            self.file.unlink(missing_ok=True)

    def _is_zip(self) -> bool:
        with suppress(FileNotFoundError), self.file.open("rb") as file:
            return file.read(2) == b"PK"
        return False

    def size(self) -> int:
        """Return how many bytes have arrived."""
        return self.file.stat().st_size if self.file.exists() else 0

    def discard(self) -> None:
        """Remove the file, and the folder if it is empty."""
        self.file.unlink(missing_ok=True)
        self._marker.unlink(missing_ok=True)
        self.remove_empty_folder()

    def move_to(self, path: Path) -> None:
        """Give the complete file its name, in place of an older one."""
        self.file.replace(path)
        self._marker.unlink(missing_ok=True)
        self.remove_empty_folder()

    def remove_empty_folder(self) -> None:
        """Remove the folder unless a file has arrived."""
        with suppress(OSError):
            self.folder.rmdir()


def zip_problem(path: Path, task: Task) -> str:
    """Return what is wrong with a zip file, as a predicate; an empty string if all its bytes are right.

    Reading 700 MB takes about a second. Raises OSError if the file can't be read.
    """
    if not path.exists():
        return "is missing"
    with path.open("rb") as file:
        start = file.read(512).lstrip()
        if start[:1] == b"<":
            return "is not a valid zip file but a web page"
        try:
            with zipfile.ZipFile(file) as archive:
                corrupted, names = archive.testzip(), set(archive.namelist())
        except Exception as error:
            # Corrupted bytes make zipfile and its decompressors raise errors of any type.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: an impossible offset
                raise
            return f"is not a valid zip file ({type(error).__name__}: {str(error)[:100]})"
    expected = {task.train_archive, task.test_archive, task.train_labels_csv, task.sample_submission_csv}
    missing = sorted(expected - names)
    if missing:
        return f"is missing {', '.join(missing)}"
    return f"is corrupted: the checksum of {corrupted} is wrong" if corrupted else ""


@contextmanager
def local_errors() -> Iterator[None]:
    """Raise KaggleError, one line with path and remedy, for an error of the operating system."""
    try:
        yield
    except OSError as error:
        raise KaggleError(explain_error(error)) from None
