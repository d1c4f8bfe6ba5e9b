"""An input folder -> a stream of (id, encoded image) per split, whatever form the files are in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from pipeline.data import torchvision_files
from pipeline.data.torchvision_files import TorchvisionFiles
from pipeline.task import COMPETITION, TRAIN_LABELS_CSV, ZIP_NAME, Ids, Image, Split
from pipeline.data.kaggle_files import KaggleFiles
from pipeline.data.labels import Labels
from pipeline.errors import InputError

NOTEBOOK_MOUNT = Path("/kaggle/input")
HOW_TO_GET_INPUT = f"""Ways to get it:
  python run.py download    Kaggle's files, by the kaggle client (first accept the rules on kaggle.com/c/{COMPETITION})
  python run.py demo        no download: the whole job on a small drawn competition
  --input DIR               a folder with {ZIP_NAME}, or train.7z, test.7z and {TRAIN_LABELS_CSV}, or the folders
                            train/ and test/ with {TRAIN_LABELS_CSV}, or torchvision's {batches.FOLDER_NAME}"""


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
    for name in (batches.FOLDER_NAME, batches.TAR_NAME):
        if (folder / name).exists():
            return TorchvisionFiles(folder / name)
    return None
