"""Hardware settings -> the device and its capabilities."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

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
    torch.set_num_threads(_at_most_four_per_core("threads_per_job", config.threads_per_job, is_driver=is_driver))
    _at_most_four_per_core("jobs", config.jobs, is_driver=is_driver)
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


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Use a number of threads for torch's operations while the block runs; 0: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _at_most_four_per_core(key: str, configured: int | Literal["auto"], *, is_driver: bool) -> int:
    """Return a configured number; if it is auto, that of the cores. Raises ConfigError."""
    # torch itself respects neither CPU affinity nor container limits.
    cores = available_cores()
    largest = MAX_THREADS_PER_CORE * cores
    number = cores if configured == "auto" else configured
    if number > largest and not is_driver:
        raise ConfigError(
            f"machine.{key} is {number}, expected at most {MAX_THREADS_PER_CORE} per core, and this process may use "
            f"{cores} cores; set it to auto"
        )
    return min(number, largest)


def _keep_freed_memory() -> None:
    """Tune glibc's malloc to keep freed memory.

    By default it maps and unmaps each large block of activations, and the kernel zeroes its pages every time: a fifth
    of a training step.
    """
    _call_glibc("mallopt", _M_MMAP_MAX, 0)
    _call_glibc("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return the freed memory that glibc has kept so far to the system, for other processes."""
    _call_glibc("malloc_trim", 0)


def _call_glibc(function: str, *arguments: int) -> None:
    """Call a function of the C library if that is glibc."""
    if platform.libc_ver()[0] == "glibc":
        # A preloaded malloc may lack it, and a static Python can't be searched for it.
        with suppress(AttributeError, OSError):
            getattr(ctypes.CDLL(None), function)(*arguments)


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
