"""Search: config, search space and files of a hyperparameter search, opened once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.advice import shell_command
from pipeline.config import Config
from pipeline.config_files import DEFAULT_CONFIG, load_config
from pipeline.errors import ConfigError, InputError
from pipeline.executors.factory import ExecutorOptions
from pipeline.executors.fold_job import FoldJob
from pipeline.run_context import LOCAL, RunContext, context_of
from pipeline.runs.search_folder import SearchFolder
from pipeline.task import Task
from pipeline.tuning.results import Objective
from pipeline.tuning.space import SearchSpace, load_space
from pipeline.tuning.study import PrunerName


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, and for how long."""

    space: Path
    member: str | None = None
    """None: the only one of the config."""
    folds: Sequence[int] = (0,)
    objective: Objective = "accuracy"
    pruner: PrunerName = "median"
    trials: int | None = None
    """Complete and pruned trials of the search in all; None: as many as `minutes` allow, without it 20."""
    minutes: float | None = None
    """After which this command starts no more trials."""


@dataclass(frozen=True)
class Search:
    """A search, opened."""

    context: RunContext
    """Of a config with only the member and the folds of the trials."""
    config: Config
    """As it is in the file, with `--set`."""
    member: str
    space: SearchSpace
    options: SearchOptions
    folder: SearchFolder

    @property
    def jobs(self) -> list[FoldJob]:
        """The folds of a trial with the values of the config."""
        return list(self.context.fold_jobs())

    def jobs_of(self, number: int, config: Config) -> list[FoldJob]:
        """Return the folds of a trial with a config."""
        run, name = self.folder.trial(number), self.member
        return [
            replace(
                job,
                member_name=f"trial {number} {name}",
                member=config.members[name],
                folder=run.fold(name, job.fold or 0),
            )
            for job in self.jobs
        ]

    def settings(self) -> dict[str, Any]:
        """Return what must be the same each time that the search is resumed."""
        return {
            "config": self.config.experiment(),
            "space": {key: str(distribution) for key, distribution in self.space.distributions.items()},
            "member": self.member,
            "folds": list(self.context.config.folds.trained),
            "objective": self.options.objective,
            "pruner": self.options.pruner,
            "input": self.context.input_checksums(),
        }

    @property
    def evaluation_command(self) -> str:
        """The command that scores the best config on the folds that no trial has used; empty if there are none."""
        if not self.other_folds:
            return ""
        words = ["python", "run.py", "train", "--config", str(self.folder.best), "--run", f"{self.folder.name}_best"]
        words += ["--set", f"folds.train={self.other_folds}"]
        folder = self.context.source.folder
        return shell_command([*words, *([] if folder == Path("input") else ["--input", str(folder)])])

    @property
    def other_folds(self) -> list[int]:
        """The folds that no trial uses."""
        folds = self.context.config.folds
        return [fold for fold in range(folds.num_folds) if fold not in folds.trained]


def open_search(
    task: Task,
    options: SearchOptions,
    *,
    config_path: Path | None = None,
    input_dir: Path,
    run_name: str | None = None,
    overrides: Sequence[str] = (),
    executor: ExecutorOptions = LOCAL,
) -> Search:
    """Check the options, the config and every end of the search space before anything is written.

    Raises ConfigError, RunError or InputError.
    """
    path = config_path or DEFAULT_CONFIG
    config, space = load_config(path, overrides), load_space(options.space)
    member = _find_member(config, options.member)
    space.check(config, member)
    if options.pruner != "none" and not config.members[member].train.validate_every:
        raise ConfigError(
            f"--pruner {options.pruner} needs the validation after each epoch; set members.{member}.train."
            "validate_every to 1, or choose --pruner none"
        )
    folds = tuple(sorted(set(options.folds)))
    for fold in folds:
        if not 0 <= fold < config.folds.num_folds:
            raise InputError(f"--fold {fold}: expected folds from 0 to {config.folds.num_folds - 1}")
    folder = SearchFolder(f"{path.stem}_tune" if run_name is None else run_name)
    tried = config.model_copy(
        update={
            "members": {member: config.members[member]},
            "folds": config.folds.model_copy(update={"train": folds}),
            "refit": config.refit.model_copy(update={"models": 0}),
        }
    )
    context = context_of(task, folder.run, tried, path.stem, input_dir=input_dir, executor=executor)
    return Search(context, config, member, space, options, folder)


def _find_member(config: Config, name: str | None) -> str:
    names = list(config.members)
    if name is None and len(names) > 1:
        raise InputError(f"the config has the members {', '.join(names)}; choose the one to search with --member")
    if name is not None and name not in names:
        raise InputError(f"--member {name}: expected a member of the config: {', '.join(names)}")
    return names[0] if name is None else name
