"""The history of a fold as TensorBoard's event files, if asked for. The only file that imports tensorboard."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes epochs as scalars, or nothing."""

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    def add(self, record: Mapping[str, float]) -> None:
        """Write one epoch; at once, so that it can be watched."""
        if self._writer is not None:
            for name, value in record.items():
                self._writer.add_scalar(name, value, int(record["epoch"]))
            self._writer.flush()


def require_tensorboard() -> None:
    """Raise ConfigError if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("log.tensorboard: the package tensorboard is not installed; pip install tensorboard")


@contextmanager
def tensorboard_tracker(folder: Path, *, wanted: bool, num_epochs: int) -> Iterator[TensorBoardTracker]:
    """Give a log of a fold's training that goes on after `num_epochs` epochs; not wanted, it does nothing."""
    if not wanted:
        yield TensorBoardTracker(None)
        return
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    # Epochs that a stopped call had written after its last checkpoint are taken back.
    with SummaryWriter(str(folder), purge_step=num_epochs + 1) as writer:
        yield TensorBoardTracker(writer)
