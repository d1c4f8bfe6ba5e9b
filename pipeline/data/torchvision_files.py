"""torchvision's copy of the dataset, pickled batches in a folder or a tar.gz -> images and labels of both splits."""

import io
import pickle
import pickletools
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.fingerprint import file_fingerprint, folder_fingerprint
from pipeline.data.paths import describe_path, is_file, is_folder
from pipeline.data.read_errors import archive_errors, read_errors
from pipeline.errors import InputError
from pipeline.task import Ids, Image, Labels, Split, Task

BATCH_NAMES: dict[Split, list[str]] = {
    "train": [f"data_batch_{number}" for number in range(1, 6)],
    "test": ["test_batch"],
}
MAX_MEMO = 1_000_000  # objects that a pickle refers to again; a real one has 20,000
MAX_BATCH = 1 << 26  # bytes; a real one has 31 MB

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


class TorchvisionFiles:
    """The extracted folder of batches, or the tar.gz."""

    def __init__(self, path: Path, task: Task) -> None:
        self._path, self.task = path, task
        self._is_folder = path.name == task.torchvision_folder
        self.name, self.folder = str(path), path.parent

    def find_problem(self) -> str:
        """Return what is missing and what to do; an empty string if nothing is. A tar.gz is not read for it."""
        if not (is_folder if self._is_folder else is_file)(self._path):
            expected = "the folder of the batches" if self._is_folder else "a file"
            return f"{describe_path(self._path)}, expected {expected}; download it again"
        names = BATCH_NAMES["train"] + BATCH_NAMES["test"]
        missing = [name for name in names if self._is_folder and not is_file(self._path / name)]
        return f"is missing {', '.join(missing)}; download it again" if missing else ""

    def ids(self, split: Split) -> Ids:
        """Return 1 to N: the images have no ids, so they are numbered in the order of the batches."""
        return np.arange(1, len(self._split(split)[1]) + 1)

    @contextmanager
    def read(self, split: Split) -> Iterator[Iterator[tuple[int, bytes]]]:
        """Give the block the id and the row of each image."""
        yield ((image_id, row.tobytes()) for image_id, row in enumerate(self._split(split)[0], start=1))

    def decode(self, data: bytes) -> Image:
        """Turn a row, the planes of red, green and blue, into uint8 [height, width, 3]."""
        height, width, channels = self.task.image_shape
        return np.frombuffer(data, np.uint8).reshape(channels, height, width).transpose(1, 2, 0)

    def labels(self) -> Labels:
        """Return the labels of the training batches."""
        return Labels(self.ids("train"), self._split("train")[1])

    def test_labels(self) -> Labels:
        """Return the labels of the test batch."""
        return Labels(self.ids("test"), self._split("test")[1])

    def release(self) -> None:
        """Free the batches."""
        self.__dict__.pop("_batches", None)

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Return what identifies the tar.gz, or the split's batches."""
        self._check()
        if not self._is_folder:
            return file_fingerprint(self._path)
        with read_errors(self._path):
            return folder_fingerprint(self._path, [(name, (self._path / name).stat()) for name in BATCH_NAMES[split]])

    def _check(self) -> None:
        """Raises InputError if a file is missing."""
        if problem := self.find_problem():
            raise InputError(f"{self._path} {problem}")

    def _split(self, split: Split) -> Batch:
        batches = [self._batches[name] for name in BATCH_NAMES[split]]
        return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])

    @cached_property
    def _batches(self) -> dict[str, Batch]:
        self._check()
        names = BATCH_NAMES["train"] + BATCH_NAMES["test"]
        try:
            with archive_errors(self._path):
                pickled = self._read_folder(names) if self._is_folder else self._read_tar(names)
        except InputError:
            raise
        except Exception as error:
            # Corrupted bytes make tarfile raise errors of other types too, such as zlib.error.
            cause = " ".join(str(error).split())[:120]
            raise InputError(f"{self._path} is truncated or corrupted ({cause}); download it again") from None
        missing = [name for name in names if name not in pickled]
        if missing:
            raise InputError(f"{self._path} is missing {', '.join(missing)}; download it again")
        return {name: load_batch(pickled[name], f"{self._path}: {name}", self.task) for name in names}

    def _read_folder(self, names: list[str]) -> dict[str, bytes]:
        pickled = {}
        for name in names:
            with (self._path / name).open("rb") as file:
                pickled[name] = file.read(MAX_BATCH)
        return pickled

    def _read_tar(self, names: list[str]) -> dict[str, bytes]:
        with tarfile.open(self._path) as tar:
            members = ((Path(member.name).name, member) for member in tar if member.isfile())
            files = ((name, tar.extractfile(member)) for name, member in members if name in names)
            return {name: file.read(MAX_BATCH) for name, file in files if file is not None}


def load_batch(pickled: bytes, name: str, task: Task) -> Batch:
    """Return a batch's rows, uint8 [N, channels * height * width], and labels [N]. Raises InputError that names it."""
    try:
        _check_memo(pickled)
        batch = _BatchUnpickler(io.BytesIO(pickled), encoding="bytes").load()
        rows, labels = batch[b"data"].values, np.asarray(batch[b"labels"], dtype=np.int64)
    except Exception as error:
        # Corrupted bytes make pickle and numpy raise errors of any type.
        raise InputError(f"{name} can't be read ({type(error).__name__}: {error}); download it again") from None
    row_size = int(np.prod(task.image_shape))
    if rows.dtype != np.uint8 or rows.shape[1:] != (row_size,) or labels.shape != rows.shape[:1]:
        raise InputError(
            f"{name} has images {rows.dtype} {list(rows.shape)} and labels {list(labels.shape)}, expected uint8 "
            f"[N, {row_size}] and [N]; download it again"
        )
    if not np.isin(labels, range(task.num_classes)).all():
        raise InputError(f"{name} has labels that are not in 0 to {task.num_classes - 1}; download it again")
    return rows, labels


class _BatchUnpickler(pickle.Unpickler):
    """Reads plain values and arrays of bytes; anything else in a pickle, code above all, is an error."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array of bytes consists of. Raises UnpicklingError for any other name."""
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.multiarray", "_reconstruct"):
            return _PickledArray
        if (module, name) == ("numpy", "ndarray"):
            return None  # only an argument of _reconstruct
        if (module, name) == ("numpy", "dtype"):
            return _PickledBytes
        raise pickle.UnpicklingError(f"it requests {module}.{name}")


class _PickledBytes:
    """The data type of bytes. numpy's own would take any state from the pickle, such as that of pointers."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"it requests an array of {name!r}")

    def __setstate__(self, _: Any) -> None:
        pass


class _PickledArray:
    """An array of bytes: `values` after its state is set."""

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, data_type, is_fortran, data = state
        if not isinstance(data_type, _PickledBytes):
            raise pickle.UnpicklingError("it requests an array of another type")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _check_memo(pickled: bytes) -> None:
    """Raises UnpicklingError for an index into the memo for which the unpickler would allocate gigabytes."""
    for opcode, index, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(index or 0) <= MAX_MEMO:
            raise pickle.UnpicklingError(f"it memoizes {index:,} objects")
