"""Jobs in a Ray cluster that are running; those whose node or process is lost are started again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import RunError, UserError
from pipeline.progress import log

MAX_TRIES = 3  # of a job whose node or process was lost


def first_line(error: Exception) -> str:
    """Return the first line of what an error says; Ray's have many."""
    return next(iter(str(error).strip().splitlines()), "")


class RetryingTasks:
    """Jobs in the cluster. One whose node or process is lost is started again; an error of ours is raised here."""

    def __init__(self, start: Any, jobs: Sequence[Any]) -> None:
        self._start, self._tries = start, Counter[str]()
        self._running = {start(job): job for job in jobs}

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Yield each job with what came from it, as it comes; a job that streams comes several times."""
        try:
            while self._running:
                for ready in self._wait():
                    job = self._running[ready]
                    try:
                        found = self._next(ready)
                    except StopIteration:
                        del self._running[ready]
                    except RayTaskError as error:
                        del self._running[ready]
                        self._give_up(job, error.cause)
                    except RayError as error:
                        del self._running[ready]
                        self._again(job, error)
                    else:
                        yield job, found
        finally:
            for left in self._running:
                ray.cancel(left, force=True)

    def _wait(self) -> list[Any]:
        """Wait for one, and take with it all that are ready by then."""
        waiting = list(self._running)
        ray.wait(waiting, num_returns=1)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return ready

    def _next(self, ready: Any) -> Any:
        if isinstance(ready, ray.ObjectRef):
            found = ray.get(ready)
            del self._running[ready]
            return found
        return ray.get(next(ready))

    def _again(self, job: Any, error: RayError) -> None:
        self._tries[str(job)] += 1
        reason = f"{type(error).__name__}: {first_line(error)}"
        if self._tries[str(job)] >= MAX_TRIES:
            raise RunError(
                f"{job} was lost {MAX_TRIES} times, the last time by {reason}; what was finished is saved, the same "
                "command goes on from there"
            )
        log.warning("%s was lost (%s); it goes on elsewhere", job, reason)
        self._running[self._start(job)] = job

    def _give_up(self, job: Any, cause: Exception) -> None:
        if isinstance(cause, UserError):
            raise type(cause)(f"{job}: {cause}") from None
        raise cause
