"""The worker processes of a DataLoader: their start, their loss, and their end, each with a clear error."""

import errno
import multiprocessing
import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Self

from pipeline.errors import TrainingError, UserError

WORKER_TIMEOUT = 300.0  # seconds; the largest batches with slow augmentations take one
FEWER_WORKERS = "rerun the same command with a smaller machine.num_workers (0 needs no worker)"
# What the system answers where /dev/shm is full, read-only or missing.
SHM_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS)


@contextmanager
def dataloader_errors() -> Iterator[None]:
    """Convert the error of a lost worker, which torch raises in any code of the main thread, into TrainingError."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(
            r"DataLoader worker \(pid.*?\) (is killed by signal: (?P<signal>[\w ]+)|exited[^.]*)", str(error)
        )
        if found is None:
            raise
        if found["signal"] == "Terminated":
            # Most often all processes of the job are ended: the signal to this one comes before, or within a second.
            if _is_interrupted(error):
                raise KeyboardInterrupt from None
            time.sleep(1)
        cause = (
            "was killed, most often because memory ran out" if found["signal"] == "Killed" else f"was lost ({found[1]})"
        )
        raise TrainingError(f"a DataLoader worker {cause}; progress is saved: {FEWER_WORKERS}") from None


def _is_interrupted(error: BaseException | None) -> bool:
    """Return whether an error was raised while a KeyboardInterrupt was handled."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _is_interrupted(error.__context__))


@contextmanager
def start_errors() -> Iterator[None]:
    """Convert the errors of a start of workers into TrainingError."""
    try:
        yield
    except (OSError, ImportError) as error:
        is_shm = getattr(error, "errno", None) in SHM_ERRORS
        shm = "/dev/shm is full or read-only: docker run --shm-size=1g, or"  # noqa: S108 (named, not used)
        remedy = f"{shm} set machine.num_workers=0" if is_shm else FEWER_WORKERS
        raise TrainingError(f"the DataLoader workers can't be started ({error}); {remedy}") from None


def check_semaphores(num_workers: int) -> None:
    """Create and discard as many queues as the workers need. Raises OSError.

    A DataLoader that can't create them raises the same error, and then another one that nothing can catch.
    """
    context = multiprocessing.get_context()
    _ = [context.Event(), *(context.Queue() for _ in range(num_workers + 1))]


class Watchdog:
    """Kills workers that return no batch for WORKER_TIMEOUT; a DataLoader has no timeout for a half-sent batch."""

    def __init__(self, workers: Collection[BaseProcess]) -> None:
        self._workers, self._waiting_since, self._has_fired = workers, float("inf"), False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time of the block, which waits for a batch. Raises TrainingError, or the error of a worker."""
        if self._workers and self._thread.ident is None:
            self._thread.start()
        self._waiting_since = time.monotonic()
        try:
            yield
        except (RuntimeError, EOFError, OSError) as error:
            # torch has noticed the end of the workers, or their pipe has ended before it could.
            if self._has_fired:
                text = f"the DataLoader workers have returned no batch for {WORKER_TIMEOUT:.0f} s"
                raise TrainingError(f"{text}; progress is saved: {FEWER_WORKERS}") from None
            if self._workers and not isinstance(error, RuntimeError):
                raise TrainingError(f"the DataLoader workers were lost ({error}); {FEWER_WORKERS}") from None
            raise
        except UserError as error:
            if "in DataLoader worker process" not in str(error):
                raise
            # The DataLoader puts the worker's traceback before the message.
            raise type(error)(str(error).strip().splitlines()[-1].partition("Error: ")[2]) from None
        finally:
            self._waiting_since = float("inf")

    def _watch(self) -> None:
        while not self._ended.wait(WORKER_TIMEOUT / 100):
            if time.monotonic() - self._waiting_since > WORKER_TIMEOUT:
                self._has_fired = True
                for worker in self._workers:
                    worker.kill()
                return
