"""Fold jobs in this process, one after the other."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pipeline.data.image_store import ImageStore
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.learning.device import Machine
from pipeline.predictions import Predictions
from pipeline.progress import ProgressDisplay
from pipeline.runs.fold_table import FoldTable


@dataclass(frozen=True)
class LocalExecutor:
    """Runs jobs sequentially in this process."""

    machine: Machine

    def train(
        self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, display: ProgressDisplay
    ) -> list[Predictions]:
        """Train folds sequentially."""
        results = [result for job in jobs for result in job.train(self.machine, store, table, display)]
        return [result for result in results if isinstance(result, Predictions)]

    def predict(
        self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, display: ProgressDisplay
    ) -> Generator[Predictions, None, None]:
        """Predict sequentially."""
        for job, request in requests:
            yield job.predict_test(self.machine, store, request, display)
