"""The interface of all executors."""

from collections.abc import Generator, Sequence
from typing import Protocol

from pipeline.data.image_store import ImageStore
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.learning.train_state import EpochRecord
from pipeline.predictions import Predictions
from pipeline.progress import Display
from pipeline.runs.fold_table import FoldTable


class TrainingObserver:
    """Is called in the driver's process while jobs train, wherever they do; does nothing by itself."""

    def on_epoch(self, job: FoldJob, record: EpochRecord) -> None:
        """Called with each epoch."""

    def on_trained(self, job: FoldJob, predictions: Predictions) -> None:
        """Called with the out-of-fold predictions of each finished job, as soon as they are saved."""


NO_OBSERVER = TrainingObserver()


class Executor(Protocol):
    """Runs independent fold jobs; their results are saved in their folders and returned."""

    @property
    def num_slots(self) -> int:
        """How many jobs run at the same time."""
        ...

    def stop(self) -> None:
        """End all jobs, from another thread than that which runs them: there an error is raised."""
        ...

    def train(
        self,
        jobs: Sequence[FoldJob],
        store: ImageStore,
        table: FoldTable,
        display: Display,
        observer: TrainingObserver = NO_OBSERVER,
    ) -> list[Predictions]:
        """Train folds, each from its last checkpoint; return their out-of-fold predictions in order.

        An error that the observer raises stops all jobs.
        """
        ...

    def predict(
        self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, display: Display
    ) -> Generator[Predictions, None, None]:
        """Yield the predictions of each request, in order; slices that are saved already are not predicted again."""
        ...
