"""The machine's settings -> the device, and what it can do."""

from dataclasses import dataclass

import joblib
import torch

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """What a training or a prediction may use."""

    device: torch.device
    compile: bool
    autocast: bool
    num_workers: int


def set_up_machine(config: MachineConfig) -> Machine:
    """Find the device and set the number of threads. Raises ConfigError for a device that is not there."""
    device = torch.device(_best_device() if config.device == "auto" else config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("machine.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("machine.device is mps, but this is no Mac with Metal; set it to auto or cpu")
    # joblib looks at affinity and at the limits of a container, torch at neither.
    torch.set_num_threads(config.num_threads or joblib.cpu_count())
    # Denormals make convolutions on a CPU many times slower (pytorch issue 23862).
    torch.set_flush_denormal(True)
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return Machine(
        device=device,
        # On a CPU compiling gains nothing (configs/LOG.md) and takes a quarter of a minute.
        compile=config.compile == "on" or (config.compile == "auto" and device.type == "cuda"),
        autocast=config.autocast == "bf16" or (config.autocast == "auto" and has_bf16),
        num_workers=config.num_workers,
    )


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
