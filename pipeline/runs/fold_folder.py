"""submissions/<run>/<member>/fold_<n>/ and refit_<n>/: checkpoint of an unfinished model, results of a finished one."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import write_bytes, write_json, write_text
from pipeline.predictions import Predictions
from pipeline.progress import log
from pipeline.results import FoldCompute
from pipeline.runs.checksums import CHECKSUMS_JSON, Checksums
from pipeline.runs.prediction_files import (
    CorruptedFileError,
    load_predictions,
    read_errors,
    save_predictions,
)
from pipeline.task import Ids

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.runs.checkpoint import Checkpoint

# Methods that read or write tensors import torch themselves: it takes seconds, and few commands need tensors.

Files = dict[str, bytes]
WEIGHTS, OUT_OF_FOLD, HISTORY = "weights.safetensors", "out_of_fold.npz", "history.csv"
RESULTS = (WEIGHTS, OUT_OF_FOLD, HISTORY, CHECKSUMS_JSON)
COMPUTE = "compute.json"


class FoldFolder:
    """One member on one fold, or refitted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoint = path / "checkpoint.safetensors"
        self._test_logits = path / "test_logits"
        self._checksums = Checksums(path)

    @property
    def is_trained(self) -> bool:
        """Whether the fold is trained and evaluated; out-of-fold predictions and checksums are written last."""
        return (self.path / OUT_OF_FOLD).exists() and not self._checksums.corrupted()

    def corrupted(self) -> list[Path]:
        """Return the files of a finished fold that are missing or differ from their checksum."""
        return [self.path / name for name in self._checksums.corrupted()]

    def save_checkpoint(self, checkpoint: "Checkpoint") -> None:
        """Save an unfinished fold."""
        from pipeline.runs.checkpoint import save_checkpoint

        save_checkpoint(self._checkpoint, checkpoint)

    def load_checkpoint(self) -> "Checkpoint | None":
        """Return the checkpoint of an unfinished fold, if there is one. Raises CorruptedFileError."""
        from pipeline.runs.checkpoint import load_checkpoint

        return load_checkpoint(self._checkpoint) if self._checkpoint.exists() else None

    def finish(
        self, history: Sequence[Mapping[str, Any]], weights: Mapping[str, "Tensor"], out_of_fold: Predictions
    ) -> None:
        """Save a finished fold; only then delete its checkpoint."""
        import safetensors.torch

        write_text(self.path / HISTORY, _as_csv(history))
        write_bytes(self.path / WEIGHTS, safetensors.torch.save(dict(weights)))
        save_predictions(self.path / OUT_OF_FOLD, out_of_fold)
        self._checksums.record(HISTORY, WEIGHTS, OUT_OF_FOLD)
        self._checkpoint.unlink(missing_ok=True)

    def discard_results(self) -> None:
        """Delete checkpoint, weights and predictions; history and FLOPs are kept."""
        for path in (self.path / OUT_OF_FOLD, self.path / CHECKSUMS_JSON, self.path / WEIGHTS, self._checkpoint):
            path.unlink(missing_ok=True)

    def save_compute(self, compute: FoldCompute) -> None:
        """Save what the fold takes."""
        write_json(self.path / COMPUTE, compute.model_dump())

    def compute(self) -> FoldCompute | None:
        """Return what the fold takes; None if it is not recorded, as in runs of earlier versions."""
        path = self.path / COMPUTE
        try:
            return FoldCompute.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return None

    def history(self) -> list[dict[str, float]]:
        """Return the per-epoch metrics of a finished fold; a row has no validation metrics if it was not evaluated."""
        with (self.path / HISTORY).open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    def weights(self) -> "dict[str, Tensor]":
        """Return the weights of a finished fold. Raises CorruptedFileError."""
        import safetensors.torch

        with read_errors(self.path / WEIGHTS):
            return safetensors.torch.load_file(self.path / WEIGHTS)

    def out_of_fold(self) -> Predictions:
        """Return the predictions of the validation images. Raises CorruptedFileError."""
        return load_predictions(self.path / OUT_OF_FOLD)

    def save_test_slice(self, stage: str, index: int, predictions: Predictions) -> None:
        """Save the logits of a slice of the test images, computed in a stage of the cascade."""
        save_predictions(self._test_slice(stage, index), predictions)

    def load_test_slice(self, stage: str, index: int, ids: Ids) -> Predictions | None:
        """Return the saved logits of a slice; None if they are missing, corrupted or of other ids."""
        path = self._test_slice(stage, index)
        try:
            predictions = load_predictions(path) if path.exists() else None
        except CorruptedFileError as error:
            log.warning("%s; it is predicted again", error.reason)
            return None
        matches = predictions is not None and predictions.ids.tolist() == ids.tolist()
        return predictions if matches else None

    def export_files(self, only: Collection[str] = ()) -> Files:
        """Return the files of a fold for another machine: all, or only some names."""
        # Those in its subfolders stay: test logits are exported by themselves, a tracker may be writing into its own.
        names = only or [p.name for p in sorted(self.path.glob("*")) if p.is_file() and p.suffix != ".partial"]
        return {name: (self.path / name).read_bytes() for name in names}

    def export_unfinished(self) -> Files:
        """Return the files from which another machine resumes the training; results, corrupted ones, are left out."""
        return {name: data for name, data in self.export_files().items() if name not in RESULTS}

    def export_test_slice(self, stage: str, index: int) -> Files:
        """Return the file of a slice of the test images for another machine."""
        path = self._test_slice(stage, index)
        return {str(path.relative_to(self.path)): path.read_bytes()}

    def import_files(self, files: Files) -> None:
        """Write what another machine exported; the files that mark the fold as finished are written last."""
        last = (OUT_OF_FOLD, CHECKSUMS_JSON)
        for name in (*sorted(files.keys() - set(last)), *(name for name in last if name in files)):
            write_bytes(self.path / name, files[name])
        if OUT_OF_FOLD in files:
            self._checkpoint.unlink(missing_ok=True)

    def _test_slice(self, stage: str, index: int) -> Path:
        return self._test_logits / f"{stage}.{index:03}.npz"


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
