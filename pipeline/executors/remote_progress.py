"""Progress of folds that other processes train: it advances with each epoch that they report."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipeline.executors.fold_job import FoldJob
from pipeline.learning.train_state import EpochRecord
from pipeline.progress import Bar, ProgressDisplay
from pipeline.runs.fold_table import FoldTable


class RemoteProgress:
    """A bar for each fold, from its first reported epoch."""

    def __init__(self, display: ProgressDisplay, table: FoldTable, bars: ExitStack) -> None:
        self._display, self._table, self._stack = display, table, bars
        self._bars: dict[str, Bar] = {}

    def report_epoch(self, job: FoldJob, record: EpochRecord, node: str) -> None:
        """Show and log an epoch that finished on a device or node."""
        epochs, flops = job.member.num_epochs, job.training_flops(self._table)
        if str(job) not in self._bars:
            self._bars[str(job)] = self._stack.enter_context(
                self._display.bar(
                    f"{job} on {node}", epochs=epochs, flops=flops, initial_fraction=(record.epoch - 1) / epochs
                )
            )
        bar = self._bars[str(job)]
        speed = f"{record.images_per_second:,.0f} images/s"
        bar.set_postfix(f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}, {speed}")
        num_images = self._table.num_training_images(job.fold)
        bar(record.epoch * num_images, epochs * num_images)
        job.log_epoch(record, self._display, node)


@contextmanager
def remote_progress(display: ProgressDisplay, table: FoldTable) -> Iterator[RemoteProgress]:
    """Show remote folds until the end of the block."""
    with ExitStack() as bars:
        yield RemoteProgress(display, table, bars)
