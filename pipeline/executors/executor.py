"""What every place where jobs run can do."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.competition.images import ImageStore
from pipeline.jobs import Asked, FoldJob
from pipeline.progress import LiveView
from pipeline.runs.folder import FoldTable


class Executor(Protocol):
    """Runs jobs that do not depend on each other; what they make stands in their folders in the end."""

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: LiveView) -> None:
        """Train and judge folds, each from its last whole epoch on."""
        ...

    def predict(self, jobs: Sequence[tuple[FoldJob, Asked]], store: ImageStore, view: LiveView) -> None:
        """Ask trained folds about test images; what was answered before is not asked again."""
        ...
