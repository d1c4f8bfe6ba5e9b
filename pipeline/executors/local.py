"""Jobs in this process, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.data.image_cache import ImageStore
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.learning.device import Machine
from pipeline.progress import ProgressDisplay
from pipeline.runs.run_folder import FoldTable


@dataclass(frozen=True)
class LocalExecutor:
    """Run them in this process, one after the other."""

    machine: Machine

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: ProgressDisplay) -> None:
        """Train fold after fold."""
        for job in jobs:
            for _ in job.train(self.machine, store, table, view):
                pass

    def predict(self, jobs: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, view: ProgressDisplay) -> None:
        """ModelPass net after net."""
        for job, asked in jobs:
            job.predict_test(self.machine, store, asked, view)
