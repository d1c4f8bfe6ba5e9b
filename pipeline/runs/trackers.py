"""The training history of a fold as TensorBoard event files. The only module that imports tensorboard."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes epochs as scalars; without a writer it does nothing."""

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    def add(self, row: Mapping[str, float | None]) -> None:
        """Write one epoch, flushed at once so that it can be watched."""
        if self._writer is not None:
            for name, value in row.items():
                if value is not None:
                    self._writer.add_scalar(name, value, int(row["epoch"] or 0))
            self._writer.flush()


def require_tensorboard() -> None:
    """Raise ConfigError if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("log.tensorboard: the package tensorboard is not installed; pip install tensorboard")


@contextmanager
def tensorboard_tracker(folder: Path, *, enabled: bool, num_epochs: int) -> Iterator[TensorBoardTracker]:
    """Open the tracker of a fold's training that starts or resumes after `num_epochs` epochs."""
    if not enabled:
        yield TensorBoardTracker(None)
        return
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    # Epochs that an interrupted process wrote after its last checkpoint are purged.
    with SummaryWriter(str(folder), purge_step=num_epochs + 1) as writer:
        yield TensorBoardTracker(writer)
