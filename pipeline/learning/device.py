"""Hardware settings -> the device and its capabilities."""

import ctypes
import platform
from contextlib import suppress
from dataclasses import dataclass

import torch

from pipeline.config import MachineConfig
from pipeline.cores import available_cores
from pipeline.errors import ConfigError

CPU = torch.device("cpu")
# Of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
MAX_THREADS_PER_CORE = 4  # more make every operation many times slower


@dataclass(frozen=True)
class Machine:
    """Resolved hardware settings."""

    device: torch.device = CPU
    compile: bool = False
    autocast: bool = False
    num_workers: int = 0
    predict_batch_size: int = 64


def set_up_machine(config: MachineConfig, *, is_driver: bool = False) -> Machine:
    """Select the device and set the number of threads.

    Raises ConfigError for a device that is not available, and for far more threads than cores; but not on the driver of
    a cluster, whose nodes may have more cores, and check it themselves.
    """
    device = torch.device(_best_device() if config.device == "auto" else config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("machine.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("machine.device is mps, but PyTorch finds no Metal device; set it to auto or cpu")
    torch.set_num_threads(_num_threads(config, is_driver=is_driver))
    # Denormals make convolutions on a CPU many times slower (pytorch issue 23862).
    torch.set_flush_denormal(True)
    if device.type == "cpu":
        _keep_freed_memory()
    return Machine(
        device=device,
        # On a CPU compiling gains nothing (docs/experiments.md) and takes a quarter of a minute.
        compile=config.compile == "on" or (config.compile == "auto" and device.type == "cuda"),
        autocast=config.autocast == "bf16" or (config.autocast == "auto" and _has_fast_bf16(device)),
        num_workers=min(config.num_workers, available_cores()),
        # On a CPU the activations of a small batch stay in the cache.
        predict_batch_size=config.predict_batch_size or (64 if device.type == "cpu" else 2048),
    )


def _num_threads(config: MachineConfig, *, is_driver: bool) -> int:
    # torch itself respects neither CPU affinity nor container limits.
    cores = available_cores()
    largest = MAX_THREADS_PER_CORE * cores
    if config.num_threads > largest and not is_driver:
        raise ConfigError(
            f"machine.num_threads is {config.num_threads}, expected at most {MAX_THREADS_PER_CORE} per core, and this "
            f"process may use {cores} cores; set it to 0 for one thread per core"
        )
    return min(config.num_threads or cores, largest)


def _keep_freed_memory() -> None:
    """Tune glibc's malloc to keep freed memory.

    By default it maps and unmaps each large block of activations, and the kernel zeroes its pages every time: a fifth
    of a training step.
    """
    if platform.libc_ver()[0] == "glibc":
        # A preloaded malloc may have no mallopt, and a static Python can't be searched for it.
        with suppress(AttributeError, OSError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies in bf16 natively; emulation is far slower (pytorch #183815)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
