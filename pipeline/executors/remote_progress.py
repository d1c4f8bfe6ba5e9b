"""Folds that are trained elsewhere, in the live view and in the log: they move on with each epoch that comes back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipeline.executors.fold_job import FoldJob
from pipeline.learning.train import EpochRecord
from pipeline.progress import Bar, ProgressDisplay
from pipeline.runs.run_folder import FoldTable


class RemoteProgress:
    """A bar for each fold, from its first epoch that is heard of."""

    def __init__(self, view: ProgressDisplay, table: FoldTable, bars: ExitStack) -> None:
        self._view, self._table, self._bars = view, table, bars
        self._shown: dict[str, Bar] = {}

    def epoch(self, job: FoldJob, record: EpochRecord, place: str) -> None:
        """Show an epoch that was done at a place."""
        epochs, work = job.member.train.epochs, job.training_flops(self._table)
        if str(job) not in self._shown:
            share = (record.epoch - 1) / epochs
            self._shown[str(job)] = self._bars.enter_context(
                self._view.bar(f"{job} on {place}", epochs=epochs, work=work, share_before=share)
            )
        bar = self._shown[str(job)]
        bar.say(f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}, {record.images_per_second:,.0f} images/s")
        num_images = int((self._table.folds != job.fold).sum())
        bar(record.epoch * num_images, epochs * num_images)
        job.log_epoch(record, self._view, f" on {place}")

    def finished(self, job: FoldJob) -> None:
        """Say how right a fold is whose files have come back."""
        job.log_score(job.folder.out_of_fold(), self._table)


@contextmanager
def remote_progress(view: ProgressDisplay, table: FoldTable) -> Iterator[RemoteProgress]:
    """Show folds until the end of the block."""
    with ExitStack() as bars:
        yield RemoteProgress(view, table, bars)
