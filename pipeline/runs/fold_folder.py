"""submissions/<run>/<member>/fold_<n>/: a training in progress, and what is kept of it."""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from pipeline.files import write_bytes, write_text
from pipeline.predictions import Predictions, join
from pipeline.progress import log
from pipeline.runs.prediction_files import CorruptedFileError, load_predictions, reading, save_predictions
from pipeline.runs.checksums import NAME, Checksums


class FoldFolder:
    """One member on one fold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoint = path / "checkpoint.safetensors"
        self._weights = path / "weights.safetensors"
        self._out_of_fold = path / "out_of_fold.npz"
        self._test = path / "test"
        self.events = path / "tensorboard"
        self._checksums_file = Checksums(path)

    @property
    def is_trained(self) -> bool:
        """Whether the fold is trained and judged; the out-of-fold predictions and the checksums are written last."""
        return self._out_of_fold.exists() and not self._checksums_file.broken()

    def broken(self) -> list[Path]:
        """Return the files of a finished fold that are gone or are not what they were."""
        return [self.path / name for name in self._checksums_file.broken()]

    def save_checkpoint(self, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Keep a training in progress."""
        metadata = {"history": json.dumps(list(history)), "sha256": _checksum(tensors)}
        data = safetensors.torch.save(dict(tensors), metadata=metadata)
        write_bytes(self._checkpoint, data)

    def load_checkpoint(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]] | None:
        """Return the history and tensors of a training in progress, if there is one. Raises CorruptedFileError."""
        if not self._checkpoint.exists():
            return None
        with reading(self._checkpoint), safe_open(self._checkpoint, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            # Checkpoints of older versions have no checksum.
            if metadata.get("sha256", "") not in ("", _checksum(tensors)):
                raise ValueError("its checksum is wrong")
            return json.loads(metadata["history"]), tensors

    def finish(
        self, history: Sequence[Mapping[str, Any]], weights: Mapping[str, Tensor], out_of_fold: Predictions
    ) -> None:
        """Keep a finished fold; only then drop its checkpoint."""
        write_text(self.path / "history.csv", _as_csv(history))
        data = safetensors.torch.save(dict(weights))
        write_bytes(self._weights, data)
        save_predictions(self._out_of_fold, out_of_fold)
        self._checksums_file.keep("history.csv", self._weights.name, self._out_of_fold.name)
        self._checkpoint.unlink(missing_ok=True)

    def history(self) -> list[dict[str, float]]:
        """Return the epochs of a finished fold."""
        with (self.path / "history.csv").open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of a finished fold."""
        with reading(self._weights):
            return safetensors.torch.load_file(self._weights)

    def out_of_fold(self) -> Predictions:
        """Return the predictions for the images that the fold held out."""
        return load_predictions(self._out_of_fold)

    def has_test(self, name: str, number: int, ids: NDArray[np.int64]) -> bool:
        """Whether a slice of the test images is predicted, and is of these ids; a damaged one is not."""
        path = self._test_slice(name, number)
        try:
            return path.exists() and np.array_equal(load_predictions(path).ids, ids)
        except CorruptedFileError as error:
            log.warning("%s; it is predicted again", error.what)
            return False

    def save_test(self, name: str, number: int, predictions: Predictions) -> None:
        """Keep the predictions for a slice of the test images; the name says in which round they were made."""
        save_predictions(self._test_slice(name, number), predictions)

    def test(self, name: str) -> Predictions:
        """Return the predictions for all test images of a round."""
        return join([load_predictions(path) for path in sorted(self._test.glob(f"{name}.*.npz"))])

    def export(self, only: Collection[str] = ()) -> dict[str, bytes]:
        """Return the files of a training, begun or finished, to be taken to another machine; only some, if told."""
        paths = [path for path in sorted(self.path.rglob("*")) if path.is_file() and self._test not in path.parents]
        names = only or [str(path.relative_to(self.path)) for path in paths if path.suffix != ".partial"]
        return {name: (self.path / name).read_bytes() for name in names}

    def export_test(self, name: str, number: int) -> dict[str, bytes]:
        """Return the file of a slice of the test images, to be taken to another machine."""
        path = self._test_slice(name, number)
        return {str(path.relative_to(self.path)): path.read_bytes()}

    def take(self, files: Mapping[str, bytes]) -> None:
        """Write what `export` gave on another machine; what says that the fold is finished comes last."""
        last = (self._out_of_fold.name, NAME)
        for name in (*sorted(files.keys() - set(last)), *(name for name in last if name in files)):
            write_bytes(self.path / name, files[name])
        if self._out_of_fold.name in files:
            self._checkpoint.unlink(missing_ok=True)

    def _test_slice(self, name: str, number: int) -> Path:
        return self._test / f"{name}.{number:03}.npz"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all tensors; within the file, so that both are always of the same epoch."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
