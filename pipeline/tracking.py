"""What a job trains -> the experiment trackers of its config."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config import Config
from pipeline.evaluate import score_out_of_fold
from pipeline.executors.executor import TrainingObserver
from pipeline.executors.fold_job import FoldJob
from pipeline.learning.train_state import EpochRecord
from pipeline.predictions import Predictions
from pipeline.results import Scores
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.trackers.open_trackers import Trackers, open_trackers
from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun
from pipeline.task import Task


class Tracking(TrainingObserver):
    """Passes epochs and out-of-fold scores on to the trackers of a run."""

    def __init__(self, trackers: Trackers, run: RunFolder, table: FoldTable) -> None:
        self._trackers, self._run, self._table = trackers, run, table

    def on_epoch(self, job: FoldJob, record: EpochRecord) -> None:
        """Record an epoch."""
        self._trackers.log_epoch(_tracked_model(job), record.to_row())

    def on_trained(self, job: FoldJob, predictions: Predictions) -> None:
        """Record the out-of-fold scores; a refit has none."""
        scores = {} if job.fold is None else _to_values(score_out_of_fold(predictions, self._table))
        self._trackers.finish_model(_tracked_model(job), scores)

    def finish_run(self, scores: Scores) -> None:
        """Record the ensemble's out-of-fold scores, report and submission."""
        self._trackers.finish_run(_to_values(scores), [self._run.report, self._run.submission])


@contextmanager
def open_tracking(run: RunFolder, config: Config, task: Task, table: FoldTable) -> Iterator[Tracking]:
    """Open the trackers of a run, which exists, until the end of the block."""
    identity = json.dumps([run.name, run.environment()], sort_keys=True)
    tracked = TrackedRun(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        name=run.name,
        competition=task.competition,
        folder=run.path,
        config=config.model_dump(mode="json"),
    )
    with open_trackers(config.log.trackers, tracked) as trackers:
        yield Tracking(trackers, run, table)


def _tracked_model(job: FoldJob) -> TrackedModel:
    return TrackedModel(
        name=str(job),
        kind="refit" if job.fold is None else "fold",
        folder=job.folder.path,
        config=job.member.model_dump(mode="json"),
        num_epochs=job.member.num_epochs,
    )


def _to_values(scores: Scores) -> dict[str, float]:
    return {"accuracy": scores.accuracy, "log_loss": scores.log_loss, "n": scores.num_images}
