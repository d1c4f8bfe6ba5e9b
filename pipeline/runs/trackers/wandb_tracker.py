"""Models as runs of Weights & Biases, in a group for each run of the pipeline. The only module that imports wandb."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.progress import log
from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun, Values, out_of_fold

if TYPE_CHECKING:
    from wandb import Run

# Defaults; variables that are already set take precedence. Offline, a killed process loses what it has logged since the
# last flush (wandb's default: 15 seconds). Error reports are not sent.
SETTINGS = {"WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1", "WANDB_ERROR_REPORTING": "false"}
INIT_TIMEOUT, FINISH_TIMEOUT = 30.0, 120.0  # seconds that an unreachable server may delay the job
INTERRUPTED = 255  # wandb's exit code of such runs


class WandbTracker:
    """A run of wandb for each model, and one for the ensemble; their files are in RUN/wandb.

    Without an API key it writes offline, as with WANDB_MODE=offline, and never prompts for one.
    """

    def __init__(self, run: TrackedRun) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import wandb

        self._run, self._wandb = run, wandb
        self._open: dict[str, Run] = {}
        self._mode: Literal["offline"] | None = None
        # Each run gets these settings as well: those of the process are fixed by the first call.
        self._settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
        )
        if wandb.setup(self._settings).settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            self._mode = "offline"
            log.info(
                "wandb: no API key, so it writes offline; upload after wandb login: wandb sync %s",
                run.folder / "wandb" / "offline-run-*",
            )

    def log_epoch(self, model: TrackedModel, row: Values) -> None:
        """Log an epoch as a step; wandb ignores the steps that a resumed run has already."""
        run = self._model_run(model)
        epoch = int(row["epoch"])
        if epoch >= run.step:
            run.log(dict(row), step=epoch, commit=True)

    def finish_model(self, model: TrackedModel, scores: Values) -> None:
        """Write the scores into the run's summary, and finish it."""
        run = self._model_run(model)
        run.summary.update(out_of_fold(scores))
        self._open.pop(model.name).finish()

    def finish_run(self, scores: Values, artefacts: Sequence[Path]) -> None:
        """Log scores and artefacts as a run of their own, which has the name of the pipeline's run."""
        run = self._init(self._run.name, "ensemble", self._run.config)
        self._open[self._run.name] = run
        run.summary.update(out_of_fold(scores))
        artefact = self._wandb.Artifact(f"{self._run.name}-results", type="submission")
        for path in artefacts:
            # No copy in wandb's cache: the files stay where they are.
            artefact.add_file(str(path), policy="immutable", skip_cache=True)
        run.log_artifact(artefact)
        self._open.pop(self._run.name).finish()

    def close(self, *, failed: bool) -> None:
        """Finish all open runs; one that was interrupted may be resumed."""
        while self._open:
            self._open.popitem()[1].finish(exit_code=INTERRUPTED if failed else 0)

    def _model_run(self, model: TrackedModel) -> "Run":
        if model.name not in self._open:
            self._open[model.name] = self._init(model.name, model.kind, model.config)
        return self._open[model.name]

    def _init(self, name: str, job_type: str, config: Any) -> "Run":
        """Start or resume a run: its id is the same in every process."""
        return self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self._run.competition,
            group=self._run.name,
            job_type=job_type,
            name=name,
            id=hashlib.sha256(f"{self._run.id} {name}".encode()).hexdigest()[:16],
            resume="allow",
            reinit="create_new",
            mode=self._mode,
            dir=str(self._run.folder),
            config=dict(config),
            settings=self._settings,
        )
