"""The machine's settings -> the device, and what it can do."""

import ctypes
import platform
from dataclasses import dataclass

import joblib
import torch

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError

CPU = torch.device("cpu")
# glibc's numbers for these settings (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Machine:
    """What a training or a prediction may use."""

    device: torch.device = CPU
    compile: bool = False
    autocast: bool = False
    num_workers: int = 0
    predict_batch: int = 64


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
    if device.type == "cpu":
        _keep_freed_memory()
    return Machine(
        device=device,
        # On a CPU compiling gains nothing (configs/LOG.md) and takes a quarter of a minute.
        compile=config.compile == "on" or (config.compile == "auto" and device.type == "cuda"),
        autocast=config.autocast == "bf16" or (config.autocast == "auto" and _has_fast_bf16(device)),
        num_workers=min(config.num_workers, joblib.cpu_count()),
        # On a CPU the activations of a small batch stay in the cache.
        predict_batch=config.predict_batch or (64 if device.type == "cpu" else 2048),
    )


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of asking the system for the same activations in every step.

    Large blocks are otherwise mapped and unmapped one by one, and each page of them is zeroed anew: a fifth of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _has_fast_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies in bf16 itself; where it does not, bf16 is far slower (pytorch #183815)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(processor.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
