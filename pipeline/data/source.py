"""An input folder -> a stream of (id, encoded image) per split, for each layout of the dataset's files."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pipeline.advice import shell_command
from pipeline.data.kaggle_files import KaggleFiles
from pipeline.data.missing_files import is_partial
from pipeline.data.paths import describe_path, exists, folders_below, is_file, is_folder, list_names, visible_names
from pipeline.data.torchvision_files import TorchvisionFiles
from pipeline.errors import InputError
from pipeline.task import Ids, Image, Labels, Split, Task

NOTEBOOK_MOUNT = Path("/kaggle/input")
MOUNT_DEPTH = 4  # /kaggle/input/datasets/OWNER/NAME/FOLDER
DEMO_PREFIX = "synthetic-"  # of the demo's dataset, which is not the competition's


class Source(Protocol):
    """The dataset's files in one of their layouts."""

    name: str
    """Path of the files, for messages."""
    folder: Path
    """The input folder."""
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
    names = visible_names(folder) if is_folder(folder) else []
    if names and is_partial(folder, task):
        return KaggleFiles(folder, task)  # whose errors say what is missing
    if not is_folder(folder):
        found = describe_path(folder)
    elif not names:
        found = "is empty"
    elif (inner := _complete_folder_in(folder, task)) is not None:
        raise InputError(
            f"{folder} contains the competition's files in {inner}: give that "
            f"with --input {shell_command([str(inner)])}"
        )
    else:
        found = f"contains {list_names(names)} but not the competition's files"
    mounted = f" (nor does {NOTEBOOK_MOUNT} contain them)" if is_folder(NOTEBOOK_MOUNT) else ""
    raise InputError(f"{folder} {found}{mounted}.\n{_ways_to_get_input(task)}")


def find_source_or_none(folder: Path, task: Task) -> Source | None:
    """Return the source in an input folder, or else where a Kaggle notebook mounts its input, or else None.

    Raises InputError if `folder` is a file or can't be read.
    """
    if is_file(folder):
        raise InputError(
            f"--input {folder} is a file, expected the folder that contains it: "
            f"--input {shell_command([str(folder.parent)])}"
        )
    names = (task.zip_name, task.train_archive, task.test_archive, "train", "test")
    if any(is_file(folder / name) or is_folder(folder / name) for name in names):
        return KaggleFiles(folder, task)
    return _torchvision_in(folder, task) or _mounted_source(task)


def _torchvision_in(folder: Path, task: Task) -> TorchvisionFiles | None:
    """Return torchvision's files, the folder unless only the tar.gz is complete."""
    if task.torchvision_folder is None:
        return None
    candidates = [folder / name for name in (task.torchvision_folder, task.torchvision_tar) if name is not None]
    sources = [TorchvisionFiles(path, task) for path in candidates if exists(path)]
    return next((source for source in sources if not source.find_problem()), sources[0] if sources else None)


def _mounted_source(task: Task) -> Source | None:
    """Return what a Kaggle notebook mounts: the competition's files, or else torchvision's.

    Other data sets may be mounted beside them, with folders of the same names.
    """
    folders = folders_below(NOTEBOOK_MOUNT, MOUNT_DEPTH)
    folders.sort(key=lambda path: path.name != task.competition)
    for folder in folders:
        if (files := _complete_files(folder, task)) is not None:
            return files
    found = (_torchvision_in(folder, task) for folder in folders)
    return next((source for source in found if source is not None and not source.find_problem()), None)


def _complete_folder_in(folder: Path, task: Task) -> Path | None:
    """Return a folder below, not that of the demo, with Kaggle's files."""
    below = (path for path in folders_below(folder, 2) if not path.name.startswith(DEMO_PREFIX))
    return next((path for path in below if _complete_files(path, task) is not None), None)


def _complete_files(folder: Path, task: Task) -> KaggleFiles | None:
    """Return Kaggle's files if images and labels are in a folder."""
    try:
        files = KaggleFiles(folder, task)
        return files if files.is_complete() else None
    except InputError:
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
