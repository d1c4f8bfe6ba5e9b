"""Jobs in this process, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.competition.images import ImageStore
from pipeline.jobs import Asked, FoldJob
from pipeline.learning.device import Machine
from pipeline.progress import LiveView
from pipeline.runs.folder import FoldTable


@dataclass(frozen=True)
class LocalExecutor:
    """Run them in this process, one after the other."""

    machine: Machine

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: LiveView) -> None:
        """Train fold after fold."""
        for job in jobs:
            for _ in job.train(self.machine, store, table, view):
                pass

    def predict(self, jobs: Sequence[tuple[FoldJob, Asked]], store: ImageStore, view: LiveView) -> None:
        """Ask net after net."""
        for job, asked in jobs:
            job.predict_test(self.machine, store, asked, view)
