"""The python version of CIFAR-10, as torchvision downloads it -> images and labels."""

import io
import pickle
import pickletools
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.task import IMAGE_SHAPE, Ids, Image, Split
from pipeline.data.labels import Labels
from pipeline.errors import InputError

FOLDER_NAME = "cifar-10-batches-py"
TAR_NAME = "cifar-10-python.tar.gz"
MAX_MEMO = 1_000_000  # things that a pickle refers to later; a real one has 20,000
MAX_BATCH = 1 << 26  # bytes; a real one has 31 MB


class TorchvisionFiles:
    """The folder `cifar-10-batches-py`, or its tar.gz; with the test labels."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    def ids(self, split: Split) -> Ids:
        """Count the images from 1 in the batches' order."""
        return np.arange(1, len(self._split(split)[1]) + 1)

    def read(self, split: Split) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of the batches."""
        for number, row in enumerate(self._split(split)[0], start=1):
            yield number, row.tobytes()

    def decode(self, data: bytes) -> Image:
        """A row holds the planes of red, green and blue."""
        height, width, channels = IMAGE_SHAPE
        return np.frombuffer(data, np.uint8).reshape(channels, height, width).transpose(1, 2, 0)

    def labels(self) -> Labels:
        """Return the labels of the five training batches."""
        return Labels(self.ids("train"), self._split("train")[1])

    def test_labels(self) -> Labels:
        """Return the labels of the test batch."""
        return Labels(self.ids("test"), self._split("test")[1])

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Describe the tar.gz, or the split's first batch."""
        path = self._path if self._path.is_file() else self._path / self._batch_names(split)[0]
        status = path.stat()
        return {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _batch_names(self, split: Split) -> list[str]:
        return [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]

    def _split(self, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        batches = [self._batches[name] for name in self._batch_names(split)]
        return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])

    @cached_property
    def _batches(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        names = self._batch_names("train") + self._batch_names("test")
        try:
            found = self._read_folder(names) if self._path.is_dir() else self._read_tar(names)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{self._path} can't be read whole ({error}); download it again") from None
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(f"{self._path} has no {', '.join(missing)}; download it again")
        return {name: load_batch(found[name], name) for name in names}

    def _read_folder(self, names: list[str]) -> dict[str, bytes]:
        found = {}
        for name in names:
            if (self._path / name).is_file():
                with (self._path / name).open("rb") as file:
                    found[name] = file.read(MAX_BATCH)
        return found

    def _read_tar(self, names: list[str]) -> dict[str, bytes]:
        with tarfile.open(self._path) as tar:
            members = ((Path(member.name).name, member) for member in tar if member.isfile())
            files = ((name, tar.extractfile(member)) for name, member in members if name in names)
            return {name: file.read(MAX_BATCH) for name, file in files if file is not None}


def load_batch(pickled: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a batch's rows [N, 3072] and classes [N]. Raises InputError naming it."""
    try:
        _check_memo(pickled)
        batch = _BatchUnpickler(io.BytesIO(pickled), encoding="bytes").load()
        data, classes = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], dtype=np.int64)
    except Exception as error:
        # Damaged bytes make a pickle, and numpy in it, raise whatever they happen to hit.
        raise InputError(f"{FOLDER_NAME}/{name} can't be read ({type(error).__name__}: {error})") from None
    if data.dtype != np.uint8 or data.shape != (len(classes), 3072) or not np.isin(classes, range(10)).all():
        raise InputError(f"{FOLDER_NAME}/{name} holds {data.dtype} {data.shape}, expected uint8 [N, 3072] and N labels")
    return data, classes


class _BatchUnpickler(pickle.Unpickler):
    """The batches are pickles; this reads plain values and bytes in arrays, and can't be made to run anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow what an array of bytes is made of."""
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return None  # only ever handed to _reconstruct; as a function it could be asked for gigabytes
        if (module, name) == ("numpy", "dtype"):
            return _dtype_of_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _empty_array(*_: Any) -> NDArray[Any]:
    """Do what every pickle of an array begins with."""
    return np._core.multiarray._reconstruct(np.ndarray, (0,), b"b")  # type: ignore[attr-defined]


def _dtype_of_bytes(kind: Any, *_: Any) -> np.dtype[Any]:
    if kind not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it asks for an array of {kind!r}")
    return np.dtype("u1", False, True)


def _check_memo(pickled: bytes) -> None:
    """Refuse places in the memo for which the unpickler would take gigabytes."""
    for opcode, place, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(place or 0) <= MAX_MEMO:
            raise pickle.UnpicklingError(f"it remembers {place:,} things")
