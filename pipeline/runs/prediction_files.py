"""Predictions <-> .npz files; every read error is a RunError that names the file."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.files import write_bytes
from pipeline.predictions import Predictions


class CorruptedFileError(RunError):
    """A file of a run that can't be read.

    Like any other error it is made of its text alone, so that it can be sent from one process to another.
    """

    @classmethod
    def of(cls, path: Path, error: Exception) -> Self:
        """Return the error of a file."""
        advice = f"delete {path.parent} and rerun the same command to recreate this fold"
        return cls(f"{path} is corrupted ({' '.join(str(error).split())}); {advice}")

    @property
    def reason(self) -> str:
        """What was found, without the suggested fix."""
        return str(self).rpartition("; ")[0]


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
    """Read predictions from an open .npz file.

    Raises ValueError for logits that are not finite, and what numpy and zipfile raise.
    """
    with np.load(file, allow_pickle=False) as arrays:
        predictions = Predictions(arrays["ids"], arrays["logits"])
    if not np.isfinite(predictions.logits).all():
        raise ValueError("logits that are not finite; the training had diverged")
    return predictions


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Convert read errors of a file into CorruptedFileError."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # Corrupted bytes make zipfile, numpy and safetensors raise errors of any class.
        raise CorruptedFileError.of(path, error) from None
