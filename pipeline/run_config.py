"""The options of a command -> its run and config, and an early start of the processes that train. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Config, MachineConfig
from pipeline.config_files import DEFAULT_CONFIG, load_config, override_config
from pipeline.executors.worker_start import start_imports
from pipeline.runs.run_folder import RunFolder, open_run

NVIDIA_DRIVER = Path("/dev/nvidiactl")  # there if and only if the driver is loaded


class RunConfig(NamedTuple):
    """A run, which may not exist yet, its config, and the config's name."""

    run: RunFolder
    config: Config
    name: str


def find_config(config_path: Path | None, run_name: str | None, overrides: Iterable[str]) -> RunConfig:
    """Return a run and its config; an existing run keeps its config unless another one is given.

    Raises ConfigError or RunError.
    """
    path = config_path or DEFAULT_CONFIG
    run = open_run(path.stem if run_name is None else run_name)
    if config_path is None and run.exists:
        return RunConfig(run, override_config(run.config(), overrides), run.name)
    return RunConfig(run, load_config(path, overrides), path.stem)


def start_workers_early(config: MachineConfig) -> None:
    """Start the imports of processes that train on a CPU, if the config may need some.

    They take as long as those of this process, and run beside them. Where there may be a GPU, `open_context` decides.
    """
    if config.jobs != 1 and (config.device == "cpu" or (config.device == "auto" and not NVIDIA_DRIVER.exists())):
        start_imports()
