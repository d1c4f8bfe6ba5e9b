"""Options of the command line and hardware -> the executor."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError
from pipeline.executors.arrangement import Slots
from pipeline.executors.executor import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.executors.pool import PoolExecutor
from pipeline.learning.device import Machine

ExecutorName = Literal["local", "ray"]


@dataclass(frozen=True)
class ExecutorOptions:
    """Where jobs run: on this machine, or on a Ray cluster (its address; None: one that is started here)."""

    executor: ExecutorName = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a cluster address without the Ray executor."""
        if self.address is not None and self.executor == "local":
            raise ConfigError("--address is that of a Ray cluster; it requires --executor ray")


def open_executor(
    options: ExecutorOptions, config: MachineConfig, machine: Machine, slots: Slots, prediction_threads: int
) -> AbstractContextManager[Executor]:
    """Return an executor for a `with` block. Raises ConfigError if Ray is requested and not installed.

    `slots` and `prediction_threads` are those of this machine; a cluster has its own.
    """
    if options.executor == "ray":
        return _ray_executor(config, options.address)
    if len(slots.devices) > 1:
        return PoolExecutor(slots, config, machine, prediction_threads)
    return nullcontext(LocalExecutor(machine, prediction_threads))


def _ray_executor(config: MachineConfig, address: str | None) -> AbstractContextManager[Executor]:
    """Import ray only when it is requested: nothing else requires it."""
    try:
        from pipeline.executors.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("--executor ray requires ray: pip install -r requirements-cluster.txt") from None
    return RayExecutor(config, address)
