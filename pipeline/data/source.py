"""An input folder -> a stream of (id, encoded image) per split, for each layout of the dataset's files."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pipeline.data.kaggle_files import KaggleFiles
from pipeline.data.torchvision_files import TorchvisionFiles
from pipeline.errors import InputError
from pipeline.task import Ids, Image, Labels, Split, Task

NOTEBOOK_MOUNT = Path("/kaggle/input")
MAX_LISTED_FILES = 5


class Source(Protocol):
    """The dataset's files in one of their layouts."""

    name: str
    """Path of the files, for messages."""
    task: Task

    def ids(self, split: Split) -> Ids:
        """Return the ids of a split's images, ascending, without decoding any image."""
        ...

    def read(self, split: Split) -> AbstractContextManager[Iterator[tuple[int, bytes]]]:
        """Return a context manager of an iterator over ids and encoded bytes of all images, in any order.

        Threads may read ahead until its end.
        """
        ...

    def decode(self, data: bytes) -> Image:
        """Decode the bytes of one image to uint8 [height, width, 3], RGB."""
        ...

    def labels(self) -> Labels:
        """Return the training labels."""
        ...

    def test_labels(self) -> Labels | None:
        """Return the test labels, or None where they are not public (Kaggle)."""
        ...

    def release(self) -> None:
        """Free what was read into memory; it is read again when needed."""
        ...

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Return name, size and modification time of a split's files, which identify them."""
        ...


def find_source(folder: Path, task: Task) -> Source:
    """Return the source in an input folder. Raises InputError that lists the ways to get the input."""
    source = find_source_or_none(folder, task)
    if source is not None:
        return source
    if not folder.is_dir():
        found = "does not exist"
    elif names := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        more = ", ..." if len(names) > MAX_LISTED_FILES else ""
        found = f"contains {', '.join(names[:MAX_LISTED_FILES])}{more} but not the competition's files"
    else:
        found = "is empty"
    raise InputError(f"{folder} {found}.\n{_ways_to_get_input(task)}")


def find_source_or_none(folder: Path, task: Task) -> Source | None:
    """Return the source in an input folder, or else where a Kaggle notebook mounts its input, or else None.

    Raises InputError if `folder` is a file.
    """
    if folder.is_file():
        raise InputError(f"--input {folder} is a file, expected the folder that contains it: --input {folder.parent}")
    mounted = sorted(path for depth in ("*", "*/*") for path in NOTEBOOK_MOUNT.glob(depth) if path.is_dir())
    found = (_source_in(candidate, task) for candidate in (folder, *mounted))
    return next((source for source in found if source is not None), None)


def _source_in(folder: Path, task: Task) -> Source | None:
    kaggle_names = (task.zip_name, task.train_archive, task.test_archive, "train", "test")
    if any((folder / name).exists() for name in kaggle_names):
        return KaggleFiles(folder, task)
    if task.torchvision_folder is None:
        return None
    for name in (task.torchvision_folder, task.torchvision_tar):
        if name is not None and (folder / name).exists():
            return TorchvisionFiles(folder / name, task)
    return None


def _ways_to_get_input(task: Task) -> str:
    lines = [
        "Ways to get it:",
        f"  python run.py download    Kaggle's files, via the Kaggle API (first accept the rules on {task.url})",
        "  python run.py demo        no download: the whole job on a small synthetic dataset",
        f"  --input DIR               a folder with {task.zip_name},",
        f"                            or {task.train_archive}, {task.test_archive} and {task.train_labels_csv},",
        f"                            or the folders train/ and test/ and {task.train_labels_csv}",
    ]
    if task.torchvision_folder is not None:
        lines.append(f"                            or torchvision's {task.torchvision_folder}")
    return "\n".join(lines)
