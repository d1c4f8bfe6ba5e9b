"""What every place where jobs run can do."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.data.image_cache import ImageStore
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.progress import ProgressDisplay
from pipeline.runs.run_folder import FoldTable


class Executor(Protocol):
    """Runs jobs that do not depend on each other; what they make stands in their folders in the end."""

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: ProgressDisplay) -> None:
        """Train and judge folds, each from its last whole epoch on."""
        ...

    def predict(self, jobs: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, view: ProgressDisplay) -> None:
        """ModelPass trained folds about test images; what was answered before is not asked again."""
        ...
