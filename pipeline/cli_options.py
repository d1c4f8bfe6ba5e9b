"""The options of a run, declared once for all commands that take them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from pipeline.config_files import CONFIGS, DEFAULT_CONFIG, load_config
from pipeline.config_types import expand_home
from pipeline.errors import InputError
from pipeline.progress import set_up_logging
from pipeline.run_config import find_config, start_workers_early
from pipeline.task import Task

if TYPE_CHECKING:
    from pipeline.run_context import RunContext
    from pipeline.tuning.context import Search

INPUT = Path("input")


def expand_home_option(path: Path | None) -> Path | None:
    """Expand `~`, which a shell leaves as it is in `--input=~/folder`. Raises InputError."""
    try:
        return path and expand_home(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


InputOption = Annotated[
    Path,
    typer.Option(
        "--input",
        help="Folder with Kaggle's files, or with torchvision's copy of the dataset.",
        callback=expand_home_option,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file; default: the run's own config, else quick.yaml (demo: demo.yaml).",
        callback=expand_home_option,
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run", help="Name of the run, a folder in submissions/; default: the config's name, for tune with _tune."
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and warnings only, no progress.")]


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, shared by `all`, `train`, `predict`, `tune` and `demo`."""

    config: ConfigOption = None
    input_dir: InputOption = INPUT
    run: RunOption = None
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value of the config, for example folds.num_folds=3; repeatable."),
    ] = None
    executor: Annotated[
        Literal["local", "ray"], typer.Option("--executor", help="Run jobs on this machine, or on a Ray cluster.")
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option("--address", help="Ray cluster: auto, or HOST:PORT; default: start one on this machine."),
    ] = None
    quiet: QuietOption = False

    def context(self, task: Task, *, fold: int | None = None, will_train: bool = True) -> "RunContext":
        """Open the run."""
        arguments = self._arguments(self.config, self.run)
        from pipeline.run_context import open_context

        return open_context(task, only_fold=fold, will_train=will_train, **arguments)

    def demo_context(self, task: Task) -> "RunContext":
        """Open the demo's run, on the synthetic dataset."""
        arguments = self._arguments(self.config or CONFIGS / "demo.yaml", self.run or "demo")
        from pipeline.run_context import open_demo

        return open_demo(task, **arguments)

    def search(self, task: Task, **options: Any) -> "Search":
        """Open a hyperparameter search; the options are those of SearchOptions."""
        arguments = self._arguments(self.config, self.run, is_run=False)
        from pipeline.tuning.context import SearchOptions, open_search

        return open_search(task, SearchOptions(**options), **arguments)

    def _arguments(self, config: Path | None, run: str | None, *, is_run: bool = True) -> dict[str, Any]:
        if self.executor == "local":
            overrides = self.overrides or ()
            path = config or DEFAULT_CONFIG
            found = find_config(config, run, overrides).config if is_run else load_config(path, overrides)
            start_workers_early(found.machine)
        from pipeline.executors.factory import ExecutorOptions

        if self.quiet:
            set_up_logging(quiet=True)
        return {
            "config_path": config,
            "input_dir": self.input_dir,
            "run_name": run,
            "overrides": self.overrides or (),
            "executor": ExecutorOptions(self.executor, self.address),
        }


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `options` of a command by the fields of RunOptions, as typer sees them."""
    hints = get_type_hints(RunOptions, include_extras=True)
    names = [field.name for field in fields(RunOptions)]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(RunOptions)
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "options"
    ]

    @wraps(command)
    def wrapper(**values: Any) -> None:
        options = RunOptions(**{name: values.pop(name) for name in names})
        command(**values, options=options)

    wrapper.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    own_hints = {name: hint for name, hint in get_type_hints(command, include_extras=True).items() if name != "options"}
    wrapper.__annotations__ = own_hints | {name: hints[name] for name in names}
    return wrapper
