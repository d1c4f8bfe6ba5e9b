"""Jobs in threads that produce results ahead of their consumer, through a bounded queue."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
Put = Callable[[Result], None]

QUEUE_SIZE = 8
POLL_SECONDS = 0.1


class CancelledError(Exception):
    """Ends work in a thread whose result is no longer needed."""


def prefetch(jobs: Sequence[Callable[[Put[Result]], None]], num_threads: int) -> Iterator[Result]:
    """Run jobs in threads and yield what they put into the queue, in the order of arrival.

    Each job is called with the function that puts a result. Raises the first error of a job. When the generator is
    closed, each job ends at its next result.
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
            job(lambda result: put((result,)))
            put(None)
        except CancelledError:
            pass
        except BaseException as error:
            put(error)

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for job in jobs:
                pool.submit(run, job)
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
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
