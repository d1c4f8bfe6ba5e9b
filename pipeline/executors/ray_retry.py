"""Tasks that run on a Ray cluster; a task whose node or process is lost is started again."""

import threading
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import LostError, RunError, UserError
from pipeline.progress import log

WAIT_SECONDS = 0.5  # until a stop is seen
MAX_TRIES = 3  # of a task whose node or process is lost


def first_line(error: Exception) -> str:
    """Return the first line of an error message; Ray's have many."""
    return next(iter(str(error).strip().splitlines()), "")


class RetryingTasks:
    """Tasks on the cluster, with retries for lost nodes; a UserError of a task is raised here."""

    def __init__(self, start: Any, tasks: Sequence[Any], stopped: threading.Event | None = None) -> None:
        """`start` submits a task and returns Ray's reference or stream of references; `stopped` ends the waiting."""
        self._start, self._stopped, self._tries = start, stopped, Counter[str]()
        self._running = {start(task): task for task in tasks}

    def results(self) -> Generator[tuple[Any, Any], None, None]:
        """Yield (task, result) as results arrive, several of a task that streams; closing it cancels the rest."""
        try:
            while self._running:
                for ready in self._wait():
                    task = self._running[ready]
                    try:
                        result = self._get(ready)
                    except StopIteration:
                        del self._running[ready]
                    except RayTaskError as error:
                        del self._running[ready]
                        self._raise(task, error.cause)
                    except RayError as error:
                        del self._running[ready]
                        self._retry(task, error)
                    else:
                        yield task, result
        finally:
            for remaining in self._running:
                ray.cancel(remaining, force=True)

    def _wait(self) -> list[Any]:
        """Wait until one reference is ready, and return all that are ready by then. Raises RunError if stopped."""
        waiting, ready = list(self._running), list[Any]()
        while not ready:
            if self._stopped is not None and self._stopped.is_set():
                raise RunError("the jobs on the cluster were stopped; rerun the same command to resume")
            ready, _ = ray.wait(waiting, num_returns=1, timeout=WAIT_SECONDS)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return ready

    def _get(self, ready: Any) -> Any:
        if isinstance(ready, ray.ObjectRef):
            result = ray.get(ready)
            del self._running[ready]
            return result
        return ray.get(next(ready))

    def _retry(self, task: Any, error: RayError) -> None:
        self._tries[str(task)] += 1
        reason = f"{type(error).__name__}: {first_line(error)}"
        if self._tries[str(task)] >= MAX_TRIES:
            raise LostError(
                f"{task} was lost {MAX_TRIES} times, the last time by {reason}; progress is saved, rerun the same "
                "command to resume"
            )
        log.warning("%s was lost (%s); it is resumed elsewhere", task, reason)
        self._running[self._start(task)] = task

    def _raise(self, task: Any, cause: Exception) -> None:
        if isinstance(cause, UserError):
            raise type(cause)(f"{task}: {cause}") from None
        raise cause
