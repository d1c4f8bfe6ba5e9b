"""Fold jobs in this process, one after the other."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pipeline.data.image_store import ImageStore
from pipeline.executors.executor import NO_OBSERVER, TrainingObserver
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.learning.device import Machine, threads
from pipeline.learning.train_state import EpochRecord
from pipeline.predictions import Predictions
from pipeline.progress import Display
from pipeline.runs.fold_table import FoldTable


@dataclass(frozen=True)
class LocalExecutor:
    """Runs jobs sequentially in this process."""

    machine: Machine
    prediction_threads: int = 0
    """0: as many as the process has."""

    @property
    def num_slots(self) -> int:
        """One."""
        return 1

    def stop(self) -> None:
        """Do nothing: jobs run in the main thread, which Ctrl-C reaches."""

    def train(
        self,
        jobs: Sequence[FoldJob],
        store: ImageStore,
        table: FoldTable,
        display: Display,
        observer: TrainingObserver = NO_OBSERVER,
    ) -> list[Predictions]:
        """Train folds sequentially."""
        return [self._train(job, store, table, display, observer) for job in jobs]

    def predict(
        self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, display: Display
    ) -> Generator[Predictions, None, None]:
        """Predict sequentially."""
        for job, request in requests:
            with threads(self.prediction_threads):
                predictions = job.predict_test(self.machine, store, request, display)
            yield predictions

    def _train(
        self, job: FoldJob, store: ImageStore, table: FoldTable, display: Display, observer: TrainingObserver
    ) -> Predictions:
        def on_epoch(record: EpochRecord) -> None:
            job.log_epoch(record, display)
            observer.on_epoch(job, record)

        with threads(job.num_threads):
            predictions = job.train_to_end(self.machine, store, table, display, on_epoch)
        observer.on_trained(job, predictions)
        return predictions
