"""Work that runs ahead in threads -> its results as they come, a bounded number of them waiting."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
Put = Callable[[Result], None]

NUM_WAITING = 8


class _CancelledError(Exception):
    """Ends a job whose results are no longer wanted."""


def prefetch(jobs: Sequence[Callable[[Put[Result]], None]], num_threads: int) -> Iterator[Result]:
    """Run jobs, each of which hands its results to the function it is given; yield the results as they come.

    The first error of a job is raised here. When the caller stops listening, the jobs end at their next result.
    """
    results: queue.Queue[tuple[Result] | BaseException | None] = queue.Queue(NUM_WAITING)
    stop = threading.Event()

    def put(result: tuple[Result] | BaseException | None) -> None:
        while True:
            if stop.is_set():
                raise _CancelledError
            try:
                return results.put(result, timeout=0.1)
            except queue.Full:
                continue

    def work(job: Callable[[Put[Result]], None]) -> None:
        try:
            job(lambda result: put((result,)))
            put(None)
        except _CancelledError:
            pass
        except BaseException as error:
            put(error)

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for job in jobs:
                pool.submit(work, job)
            num_running = len(jobs)
            while num_running:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    num_running -= 1
                else:
                    yield result[0]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
