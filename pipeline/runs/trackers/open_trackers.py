"""The configured trackers, opened together; one that fails is turned off, and the training continues."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pipeline.config import TrackerName
from pipeline.error_messages import on_one_line
from pipeline.errors import ConfigError
from pipeline.progress import log
from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun, Tracker, Values

INSTALLATION = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}


class Trackers:
    """Records everything in several trackers; the first error of one is a warning, and turns it off."""

    def __init__(self) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._last_epochs: dict[str, int] = {}

    def open(self, name: str, create: Callable[[], Tracker]) -> None:
        """Add a tracker."""
        try:
            self._trackers[name] = create()
        except Exception as error:
            _warn(name, error)

    def log_epoch(self, model: TrackedModel, row: Mapping[str, float | None]) -> None:
        """Record an epoch, without the metrics that it lacks; one that a lost node has computed before is left out."""
        values = {name: value for name, value in row.items() if value is not None}
        epoch = int(values["epoch"])
        if epoch > self._last_epochs.get(model.name, 0):
            self._last_epochs[model.name] = epoch
            self._each(lambda tracker: tracker.log_epoch(model, values))

    def finish_model(self, model: TrackedModel, scores: Values) -> None:
        """Record the out-of-fold scores of a finished model, which are empty for a refit."""
        self._each(lambda tracker: tracker.finish_model(model, scores))

    def finish_run(self, scores: Values, artefacts: Sequence[Path]) -> None:
        """Record the ensemble's out-of-fold scores, and the files that the run ends with."""
        self._each(lambda tracker: tracker.finish_run(scores, artefacts))

    def close(self, *, failed: bool) -> None:
        """End what is open."""
        self._each(lambda tracker: tracker.close(failed=failed))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                _warn(name, error)


def require_installed(names: Sequence[TrackerName]) -> None:
    """Raise ConfigError if a package of a tracker is not installed."""
    for name in names:
        packages = ["mlflow", *_database_packages()] if name == "mlflow" else [name] if name != "csv" else []
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise ConfigError(
                f"log.trackers has {name}, but {', '.join(missing)} {are} not installed; pip install "
                f"{INSTALLATION[name]}"
            )


@contextmanager
def open_trackers(names: Sequence[TrackerName], run: TrackedRun) -> Iterator[Trackers]:
    """Open the trackers of a run until the end of the block."""
    trackers = Trackers()
    for name in dict.fromkeys(names):
        if name != "csv":  # the history of every model
            trackers.open(name, partial(_create, name, run))
    failed = True
    try:
        yield trackers
        failed = False
    finally:
        trackers.close(failed=failed)


def _create(name: TrackerName, run: TrackedRun) -> Tracker:
    """Import a tracker and its client only when it is configured."""
    if name == "wandb":
        from pipeline.runs.trackers.wandb_tracker import WandbTracker

        return WandbTracker(run)
    if name == "mlflow":
        from pipeline.runs.trackers.mlflow_tracker import MlflowTracker

        return MlflowTracker(run)
    from pipeline.runs.trackers.tensorboard_tracker import TensorBoardTracker

    return TensorBoardTracker()


def _database_packages() -> tuple[str, ...]:
    """Return what MLflow needs for its SQLite database, which a server replaces."""
    return () if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http") else ("sqlalchemy", "alembic")


def _warn(name: str, error: Exception) -> None:
    cause = on_one_line(error) or type(error).__name__
    log.warning("%s failed (%s); the training continues without it", name, cause)
