"""How worker processes start: on Linux forked from one that has imported torch and timm, elsewhere from scratch."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER_MODULE = "pipeline.executors.pool"


def worker_context(device_type: str) -> BaseContext:
    """Return multiprocessing's way to start a worker for a type of device."""
    # A process that has used CUDA can't be forked.
    can_fork = sys.platform == "linux" and device_type == "cpu" and start_imports()
    return multiprocessing.get_context("forkserver" if can_fork else "spawn")


def start_imports() -> bool:
    """Start the process from which workers are forked, so that its imports run beside this one's work.

    Does nothing if it runs. Returns whether it does: some systems lack what it needs.
    """
    if sys.platform != "linux":
        return False
    from multiprocessing import forkserver  # other systems lack it

    multiprocessing.set_forkserver_preload([WORKER_MODULE])
    path = os.environ.get("PYTHONPATH")
    try:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])
        with without_interrupts():
            forkserver.ensure_running()
    except OSError:
        return False
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
    return True


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; processes that start in it never see one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
