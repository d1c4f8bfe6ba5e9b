"""What the user asked for, and what the machine has -> the executor."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError
from pipeline.executors.pool import PoolExecutor, device_names
from pipeline.executors.executor import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.learning.device import Machine

ExecutorName = Literal["local", "ray"]


@dataclass(frozen=True)
class ExecutorOptions:
    """ExecutorOptions jobs run: here, or on a Ray cluster (its address; None: one that is started here)."""

    executor: ExecutorName = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for the address of a cluster that is not asked for."""
        if self.address is not None and self.executor == "local":
            raise ConfigError("--address names a Ray cluster; it goes with --executor ray")


def open_executor(where: ExecutorOptions, config: MachineConfig, machine: Machine) -> AbstractContextManager[Executor]:
    """Return an executor for a `with` block. Raises ConfigError where ray is asked for and not installed."""
    if where.executor == "ray":
        return _cluster(config, where.address)
    devices = device_names(machine)
    return PoolExecutor(devices, config) if len(devices) > 1 else nullcontext(LocalExecutor(machine))


def _cluster(config: MachineConfig, address: str | None) -> AbstractContextManager[Executor]:
    """Import ray only when it is asked for: nothing else needs it installed."""
    try:
        from pipeline.executors.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("--executor ray needs ray: pip install -r requirements-cluster.txt") from None
    return RayExecutor(config, address)
