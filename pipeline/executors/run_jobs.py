"""The models of a run, each as a job: the folds of every member, and its refits."""

from dataclasses import replace

from pipeline.config import Config
from pipeline.executors.fold_job import FoldJob
from pipeline.learning.seeding import derive_seed, fold_seed
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import RunFolder
from pipeline.task import Task


def test_jobs(run: RunFolder, config: Config, task: Task) -> list[FoldJob]:
    """Return the models that predict the test images."""
    if not config.refit.models:
        return fold_jobs(run, config, task)
    return [*refit_jobs(run, config, task), *(fold_jobs(run, config, task) if config.refit.with_folds else ())]


def fold_jobs(run: RunFolder, config: Config, task: Task) -> list[FoldJob]:
    """Return a job for every fold that is trained, of every member."""
    return [
        _job(config, task, name, fold, fold_seed(config.seed, name, fold), run.fold(name, fold))
        for name in config.members
        for fold in config.folds.trained
    ]


def refit_jobs(run: RunFolder, config: Config, task: Task) -> list[FoldJob]:
    """Return a job for every refit of every member."""
    return [
        replace(
            _job(config, task, name, None, derive_seed(config.seed, name, "refit", number), run.refit(name, number)),
            refit=number,
        )
        for name in config.members
        for number in range(config.refit.models)
    ]


def _job(config: Config, task: Task, name: str, fold: int | None, seed: int, folder: FoldFolder) -> FoldJob:
    return FoldJob(name, config.members[name], task, fold, seed, config.predict.tta, folder)
