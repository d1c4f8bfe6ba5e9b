"""An input folder -> a stream of (id, encoded image) per split, whatever form the files are in."""

import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.competition.archive import SevenZip
from pipeline.competition.facts import COMPETITION, IMAGE_SHAPE, SAMPLE_SUBMISSION_CSV, TRAIN_LABELS_CSV, ZIP_NAME
from pipeline.competition.labels import Labels, parse_ids, parse_labels
from pipeline.competition.png import decode_png
from pipeline.errors import InputError

Split = Literal["train", "test"]
Image = NDArray[np.uint8]
Ids = NDArray[np.int64]

NOTEBOOK_MOUNT = Path("/kaggle/input")
BATCHES_NAME = "cifar-10-batches-py"
HOW_TO_GET_INPUT = f"""Ways to get it:
  python run.py download    Kaggle's files, by the kaggle client (first accept the rules on kaggle.com/c/{COMPETITION})
  python run.py demo        no download: the whole job on a small drawn competition
  --input DIR               a folder with {ZIP_NAME}, or train.7z, test.7z and {TRAIN_LABELS_CSV}, or the folders
                            train/ and test/ with {TRAIN_LABELS_CSV}, or torchvision's {BATCHES_NAME}"""


class Source(Protocol):
    """The competition's files in one of their forms."""

    name: str

    def ids(self, split: Split) -> Ids:
        """Return the ids of a split's images, ascending, without decoding an image."""
        ...

    def read(self, split: Split) -> Iterator[tuple[int, bytes]]:
        """Yield each image's id and encoded bytes, in the order in which they come."""
        ...

    def decode(self, data: bytes) -> Image:
        """Decode what `read` yields to uint8 [32, 32, 3]."""
        ...

    def labels(self) -> Labels:
        """Return the training labels."""
        ...

    def test_labels(self) -> Labels | None:
        """Return the test labels where the source has them (torchvision's does, Kaggle's never)."""
        ...

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Return what tells this source's files from others: name, size and time of change."""
        ...


def find_source(folder: Path) -> Source:
    """Find out what an input folder holds. Raises InputError that tells the ways to get input."""
    source = search_source(folder)
    if source is not None:
        return source
    found = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:5] if folder.is_dir() else []
    holds = f"holds {', '.join(found)} and nothing of the competition" if found else "holds nothing"
    raise InputError(f"{folder} {holds if folder.is_dir() else 'does not exist'}.\n{HOW_TO_GET_INPUT}")


def search_source(folder: Path) -> Source | None:
    """Look into the folder, and then where a Kaggle notebook mounts its input."""
    if folder.is_file():
        raise InputError(f"--input {folder} is a file, expected the folder that holds it: --input {folder.parent}")
    mounted = sorted(p for depth in ("*", "*/*") for p in NOTEBOOK_MOUNT.glob(depth) if p.is_dir())
    found = (_source_in(candidate) for candidate in (folder, *mounted))
    return next((source for source in found if source is not None), None)


def _source_in(folder: Path) -> Source | None:
    if any((folder / name).exists() for name in (ZIP_NAME, "train.7z", "test.7z", "train", "test")):
        return KaggleFiles(folder)
    for name in (BATCHES_NAME, "cifar-10-python.tar.gz"):
        if (folder / name).exists():
            return TorchvisionBatches(folder / name)
    return None


class KaggleFiles:
    """Kaggle's files: the whole zip, the archives unpacked from it, or the folders unpacked from those."""

    decode = staticmethod(decode_png)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._zip = folder / ZIP_NAME
        self.name = str(self._zip if self._zip.exists() else folder)

    @cached_property
    def _zipped_names(self) -> list[str]:
        if not self._zip.exists():
            return []
        try:
            with zipfile.ZipFile(self._zip) as archive:
                return archive.namelist()
        except zipfile.BadZipFile as error:
            with self._zip.open("rb") as file:
                begins = file.read(64).lstrip()
            if begins.startswith(b"<"):
                raise InputError(
                    f"{self._zip} is a web page, not a zip: the download was refused. Accept the rules on "
                    f"kaggle.com/c/{COMPETITION} and download it again"
                ) from None
            raise InputError(
                f"{self._zip} is no whole zip ({error}); the download was cut off or damaged, download it again"
            ) from None

    def ids(self, split: Split) -> Ids:
        """Return the ids from the names in the archive or folder."""
        if self._has(f"{split}.7z"):
            with self._open(f"{split}.7z") as file:
                names = SevenZip(file, self._named(f"{split}.7z")).names()
        else:
            names = [f"{split}/{path}" for path in self._png_names(split)]
        ids = np.array([_id_of(name, split) for name in names], dtype=np.int64)
        if not len(ids):
            raise InputError(f"{self._named(split)} holds no images, expected {split}/1.png and more")
        ids.sort()
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise InputError(f"{self._named(split)} holds the image {split}/{repeated[0]}.png more than once")
        self._check_complete(split, ids)
        return ids

    def read(self, split: Split) -> Iterator[tuple[int, bytes]]:
        """Yield ids and PNGs from the archive or folder."""
        if self._has(f"{split}.7z"):
            with self._open(f"{split}.7z") as file:
                for name, data in SevenZip(file, self._named(f"{split}.7z")).read():
                    yield _id_of(name, split), data
        else:
            for name in self._png_names(split):
                yield _id_of(f"{split}/{name}", split), (self._folder / split / name).read_bytes()

    def labels(self) -> Labels:
        """Return trainLabels.csv."""
        return parse_labels(self._csv(TRAIN_LABELS_CSV), self._named(TRAIN_LABELS_CSV))

    def test_labels(self) -> None:
        """Kaggle keeps them."""

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Describe the zip, the archive, or the folder (by its number of files)."""
        archive = f"{split}.7z"
        path = self._zip if archive in self._zipped_names else self._folder / (archive if self._has(archive) else split)
        status = path.stat()
        size = status.st_size if path.is_file() else len(self._png_names(split))
        return {"name": path.name, "size": size, "mtime_ns": status.st_mtime_ns}

    def _check_complete(self, split: Split, ids: Ids) -> None:
        """The test ids are those of sampleSubmission.csv, or 1 to N where it is missing."""
        if split == "train":
            return
        if self._has(SAMPLE_SUBMISSION_CSV):
            expected = parse_ids(self._csv(SAMPLE_SUBMISSION_CSV), self._named(SAMPLE_SUBMISSION_CSV))
        else:
            expected = np.arange(1, ids[-1] + 1)
        for wrong, text in ((np.setdiff1d(expected, ids), "misses"), (np.setdiff1d(ids, expected), "has the foreign")):
            if len(wrong):
                raise InputError(
                    f"{self._named(split)} {text} image {split}/{wrong[0]}.png ({len(wrong)} in all), "
                    f"expected {len(expected)} images; download or unpack it again"
                )

    def _has(self, name: str) -> bool:
        return name in self._zipped_names or (self._folder / name).is_file()

    def _named(self, name: str) -> str:
        inside = f"{self._zip}:{name}"
        beside = self._folder / name
        return inside if name in self._zipped_names or f"{name}.7z" in self._zipped_names else str(beside)

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        if name in self._zipped_names:
            try:
                with zipfile.ZipFile(self._zip) as archive, archive.open(name) as file:
                    yield file  # type: ignore[misc]
            except zipfile.BadZipFile as error:
                raise InputError(f"{self._zip}: {name} is damaged ({error}); download it again") from None
        else:
            with (self._folder / name).open("rb") as file:
                yield file

    def _csv(self, name: str) -> bytes:
        if not self._has(name):
            raise InputError(f"{self._folder} has images but no {name}; it comes with the competition's download")
        with self._open(name) as file:
            return file.read()

    def _png_names(self, split: Split) -> list[str]:
        if not (self._folder / split).is_dir():
            raise InputError(
                f"{self._folder} has neither {split}.7z nor a folder {split}/ (nor either in {ZIP_NAME}); "
                "it comes with the competition's download"
            )
        return [entry.name for entry in os.scandir(self._folder / split) if entry.name.endswith(".png")]


def _id_of(name: str, split: Split) -> int:
    match = re.fullmatch(rf"{split}/([1-9][0-9]{{0,8}})\.png", name)
    if not match:
        raise InputError(f"the images of {split} hold {name!r}, expected names such as {split}/1.png")
    return int(match[1])


class TorchvisionBatches:
    """The python version of CIFAR-10 that torchvision downloads: `cifar-10-batches-py`, or its tar.gz."""

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
            found = self._read_folder(names) if self._path.is_dir() else self._read_tar()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{self._path} can't be read whole ({error}); download it again") from None
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(f"{self._path} has no {', '.join(missing)}; download it again")
        return {name: _load_batch(found[name], name) for name in names}

    def _read_folder(self, names: list[str]) -> dict[str, bytes]:
        return {name: (self._path / name).read_bytes() for name in names if (self._path / name).exists()}

    def _read_tar(self) -> dict[str, bytes]:
        with tarfile.open(self._path) as tar:
            files = ((Path(member.name).name, tar.extractfile(member)) for member in tar if member.isfile())
            return {name: file.read() for name, file in files if file is not None}


def _load_batch(pickled: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        batch = _BatchUnpickler(io.BytesIO(pickled), encoding="bytes").load()
        data, classes = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], dtype=np.int64)
    except (KeyError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise InputError(f"{BATCHES_NAME}/{name} can't be read ({type(error).__name__}: {error})") from None
    if data.dtype != np.uint8 or data.shape != (len(classes), 3072) or not np.isin(classes, range(10)).all():
        raise InputError(
            f"{BATCHES_NAME}/{name} holds {data.dtype} {data.shape}, expected uint8 [N, 3072] and N labels"
        )
    return data, classes


class _BatchUnpickler(pickle.Unpickler):
    """The batches are pickles; this reads plain values and numpy arrays, and can't be made to run anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow what an array is made of."""
        if (module.replace("numpy.core", "numpy._core"), name) == ("numpy._core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
