"""Jobs in threads that produce results ahead of their consumer, through a bounded queue."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")
Put = Callable[[Result], None]

QUEUE_SIZE = 8
POLL_SECONDS = 0.1


class CancelledError(Exception):
    """Ends work in a thread whose result is no longer needed."""


@contextmanager
def prefetch(jobs: Sequence[Callable[[Put[Result]], None]], num_threads: int) -> Iterator[Iterator[Result]]:
    """Run jobs in threads; the block gets an iterator of what they put into the queue, in the order of arrival.

    Each job is called with the function that puts a result. The iterator raises the first error of a job. At the end of
    the block, whatever ends it, each job ends at its next result.
    """
    results: queue.Queue[tuple[Result] | BaseException | None] = queue.Queue(QUEUE_SIZE)
    cancelled = threading.Event()

    def put(result: tuple[Result] | BaseException | None) -> None:
        while True:
            if cancelled.is_set():
                raise CancelledError
            try:
                return results.put(result, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def run(job: Callable[[Put[Result]], None]) -> None:
        try:
            try:
                job(lambda result: put((result,)))
                put(None)
            except CancelledError:
                raise
            except BaseException as error:
                put(error)
        except CancelledError:
            pass

    def arrivals() -> Iterator[Result]:
        num_running = len(jobs)
        while num_running:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                num_running -= 1
            else:
                yield result[0]

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for job in jobs:
                pool.submit(run, job)
            yield arrivals()
        finally:
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
