"""The trained models that predict a run's test images, without the run's input: for `export` and `classify`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.cascade import used_models
from pipeline.config import Config
from pipeline.ensemble import Ensemble, Probabilities
from pipeline.errors import RunError
from pipeline.evaluate import load_ensemble
from pipeline.executors.fold_job import FoldJob
from pipeline.executors.run_jobs import fold_jobs, refit_jobs, test_jobs
from pipeline.learning.device import Machine
from pipeline.learning.inputs import InputSpec
from pipeline.learning.predict import predict_logits, tta_views
from pipeline.predictions import Predictions
from pipeline.progress import log
from pipeline.runs.run_folder import ENSEMBLE, RunFolder
from pipeline.task import Task


@dataclass(frozen=True)
class TrainedEnsemble:
    """Trained models of a run, with their temperatures and weights."""

    run: RunFolder
    config: Config
    task: Task
    jobs: Sequence[FoldJob]
    ensemble: Ensemble


class EnsemblePredictor:
    """The models of an ensemble in memory; each image gets all of them, with all TTA views."""

    def __init__(self, trained: TrainedEnsemble, machine: Machine) -> None:
        self.trained = trained
        self._machine = machine
        self.models: list[tuple[nn.Module, InputSpec]] = [job.load_for_inference(machine) for job in trained.jobs]

    def probabilities(self, images: NDArray[np.uint8]) -> Probabilities:
        """Return probabilities [N, classes] of uint8 images [N, height, width, 3]."""
        ids, views = np.arange(len(images)), tta_views(self.trained.config.predict.tta)
        members = (
            (job.member_name, Predictions(ids, predict_logits(model, spec, images, views, self._machine)))
            for job, (model, spec) in zip(self.trained.jobs, self.models, strict=True)
        )
        return self.trained.ensemble.probabilities(members)[1]


def open_ensemble(run: RunFolder, task: Task) -> TrainedEnsemble:
    """Open the models that predict the test images, except those without a weight.

    Raises RunError if there is no such run, or one of its models is not trained.
    """
    config = run.config()
    jobs = test_jobs(run, config, task)
    _require_trained(run, jobs)
    ensemble = load_ensemble(run, config)
    return TrainedEnsemble(run, config, task, used_models(jobs, ensemble), ensemble)


def open_model(run: RunFolder, task: Task, name: str) -> TrainedEnsemble:
    """Open one model, named as its folder in the run, at the temperature of its member.

    Raises RunError if there is no such model, or it is not trained.
    """
    config = run.config()
    jobs = {model_name(job): job for job in (*fold_jobs(run, config, task), *refit_jobs(run, config, task))}
    if name not in jobs:
        raise RunError(f"--model {name}: the run {run.name} has no such model, expected one of {', '.join(jobs)}")
    job = jobs[name]
    _require_trained(run, [job])
    temperature = 1.0
    if (run.path / ENSEMBLE).exists():
        temperature = load_ensemble(run, config).temperatures[job.member_name]
    else:
        log.warning("%s is not calibrated: temperatures are fitted when all folds are trained", name)
    return TrainedEnsemble(run, config, task, [job], Ensemble({job.member_name: temperature}, {job.member_name: 1.0}))


def model_name(job: FoldJob) -> str:
    """Return the name of a model, that of its folder in the run: MEMBER/fold_N or MEMBER/refit_N."""
    return f"{job.member_name}/{job.folder.path.name}"


def _require_trained(run: RunFolder, jobs: Sequence[FoldJob]) -> None:
    untrained = [str(job) for job in jobs if not job.folder.is_trained]
    if untrained:
        raise RunError(
            f"run {run.name}: not trained yet: {', '.join(untrained)}; python run.py train --run {run.name} (with the "
            "--input that it was started with)"
        )
