"""Models as runs of MLflow, below a parent run for each run of the pipeline. The only module that imports mlflow."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config_files import leaves
from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun, Values, out_of_fold

# Defaults; variables that are already set take precedence. They limit the delay by an unreachable server to a minute,
# once, and turn telemetry and printing off.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
DATABASE, ARTEFACTS = "mlflow.db", "mlflow_artifacts"  # in submissions/
RUN_TAG, MODEL_TAG = "pipeline.run_id", "pipeline.model"
MAX_PARAMS = 100  # in one call


class MlflowTracker:
    """A run of MLflow for each model, in an experiment with the competition's name.

    They are sent to MLFLOW_TRACKING_URI; without it they are written to submissions/mlflow.db.
    """

    def __init__(self, run: TrackedRun) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        submissions = run.folder.absolute().parent
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._run, self._open = run, dict[str, str]()
        self._last_epochs: dict[str, int] = {}
        self._client = MlflowClient(uri or f"sqlite:///{(submissions / DATABASE).as_posix()}")
        self._experiment = self._find_experiment(None if uri else (submissions / ARTEFACTS).as_uri())
        self._parent = self._start("ensemble", run.name, run.config, {})

    def log_epoch(self, model: TrackedModel, row: Values) -> None:
        """Log an epoch as a step, unless a resumed run has it already."""
        run_id = self._model_run(model)
        if row["epoch"] > self._last_epochs[run_id]:
            self._log_metrics(run_id, row, step=int(row["epoch"]))

    def finish_model(self, model: TrackedModel, scores: Values) -> None:
        """Log the scores beside the last epoch, and end the run."""
        run_id = self._model_run(model)
        self._log_metrics(run_id, out_of_fold(scores), model.num_epochs)
        self._client.set_terminated(run_id)
        del self._open[model.name]

    def finish_run(self, scores: Values, artefacts: Sequence[Path]) -> None:
        """Log scores and artefacts of the parent run."""
        self._log_metrics(self._parent, out_of_fold(scores), step=0)
        for path in artefacts:
            self._client.log_artifact(self._parent, str(path))

    def close(self, *, failed: bool) -> None:
        """End all open runs."""
        for run_id in (*self._open.values(), self._parent):
            self._client.set_terminated(run_id, "KILLED" if failed else "FINISHED")

    def _find_experiment(self, artefacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._run.competition
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name, artifact_location=artefacts)

    def _model_run(self, model: TrackedModel) -> str:
        if model.name not in self._open:
            tags = {"mlflow.parentRunId": self._parent, "pipeline.kind": model.kind}
            self._open[model.name] = self._start(model.name, model.name, model.config, tags)
        return self._open[model.name]

    def _start(self, key: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Start a run with its config, or resume the one of an earlier process; return its id."""
        from mlflow.entities import Param

        keys = {RUN_TAG: self._run.id, MODEL_TAG: key}
        query = " AND ".join(f"tags.`{tag}` = '{value}'" for tag, value in keys.items())
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found:
            run_id = found[0].info.run_id
            self._last_epochs[run_id] = int(found[0].data.metrics.get("epoch", 0))
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run_id = self._client.create_run(self._experiment, run_name=name, tags={**keys, **tags}).info.run_id
        self._last_epochs[run_id] = 0
        params = [Param(name, str(value)) for name, value in leaves(config)]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
        return run_id

    def _log_metrics(self, run_id: str, values: Values, step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])
