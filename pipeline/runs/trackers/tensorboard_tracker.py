"""Epochs and scores as TensorBoard event files in each model's folder. The only module that imports tensorboard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runs.trackers.tracker import TrackedModel, Values, out_of_fold

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes scalars into MEMBER/fold_N/tensorboard; TensorBoard has neither groups nor artefacts."""

    def __init__(self) -> None:
        self._writers: dict[str, SummaryWriter] = {}

    def log_epoch(self, model: TrackedModel, row: Values) -> None:
        """Write an epoch, flushed at once so that it can be watched."""
        epoch = int(row["epoch"])
        # Epochs that an interrupted process wrote after its last checkpoint are purged.
        self._write(model, row, step=epoch, purge_step=epoch)

    def finish_model(self, model: TrackedModel, scores: Values) -> None:
        """Write the scores beside the last epoch."""
        if scores:
            self._write(model, out_of_fold(scores), step=model.num_epochs)
        if model.name in self._writers:
            self._writers.pop(model.name).close()

    def finish_run(self, scores: Values, artefacts: Sequence[Path]) -> None:
        """Do nothing: event files belong to one model."""

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 (part of the protocol)
        """Close all files."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _write(self, model: TrackedModel, values: Values, *, step: int, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if model.name not in self._writers:
            self._writers[model.name] = SummaryWriter(str(model.folder / "tensorboard"), purge_step=purge_step)
        writer = self._writers[model.name]
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()
