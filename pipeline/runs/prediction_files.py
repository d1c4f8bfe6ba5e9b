"""Predictions <-> .npz files; every fault of a file is a RunError that names it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.files import write_bytes
from pipeline.predictions import Predictions


class CorruptedFileError(RunError):
    """A file of a run that can't be read."""

    def __init__(self, path: Path, error: Exception) -> None:
        self.what = f"{path} is damaged ({error})"
        super().__init__(f"{self.what}; delete {path.parent} to have this fold made again by the same command")


def save_predictions(path: Path, predictions: Predictions, passes: NDArray[np.int64] | None = None) -> None:
    """Write them, atomically; with how many passes each took, where that is told."""
    buffer = io.BytesIO()
    more = {} if passes is None else {"passes": passes}
    np.savez(buffer, allow_pickle=False, ids=predictions.ids, probabilities=predictions.probabilities, **more)
    write_bytes(path, buffer.getvalue())


def load_predictions(path: Path) -> Predictions:
    """Read them; the zip's checksums tell a damaged file."""
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return Predictions(found["ids"], found["probabilities"])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the faults of reading a file into one RunError that says what to do."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # Damaged bytes make zipfile, numpy and safetensors raise whatever they happen to hit.
        raise CorruptedFileError(path, error) from None
