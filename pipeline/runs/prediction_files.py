"""Predictions <-> .npz files; every read error is a RunError that names the file."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.files import write_bytes
from pipeline.predictions import Predictions


class CorruptedFileError(RunError):
    """A file of a run that can't be read."""

    def __init__(self, path: Path, error: Exception) -> None:
        self.reason = f"{path} is corrupted ({error})"
        super().__init__(f"{self.reason}; delete {path.parent} and rerun the same command to recreate this fold")


def save_predictions(path: Path, predictions: Predictions, **arrays: NDArray[np.int64]) -> None:
    """Write predictions, atomically, with further arrays [N] such as the forward passes of each image."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, ids=predictions.ids, logits=predictions.logits, **arrays)
    write_bytes(path, buffer.getvalue())


def load_predictions(path: Path) -> Predictions:
    """Read predictions; the zip's checksums detect a corrupted file. Raises CorruptedFileError."""
    with read_errors(path), path.open("rb") as file:
        return parse_predictions(file)


def parse_predictions(file: BinaryIO) -> Predictions:
    """Read predictions from an open .npz file. Raises what numpy and zipfile raise."""
    with np.load(file, allow_pickle=False) as arrays:
        return Predictions(arrays["ids"], arrays["logits"])


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Convert read errors of a file into CorruptedFileError."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # Corrupted bytes make zipfile, numpy and safetensors raise errors of any class.
        raise CorruptedFileError(path, error) from None
