"""Calls of the kaggle client: time-outs, and retries with back-off."""

import contextlib
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from pipeline.progress import log
from pipeline.submission.credential_values import Credentials
from pipeline.submission.kaggle_errors import RetryableError, translate
from pipeline.submission.kaggle_session import import_client
from pipeline.task import Task

FIRST_WAIT = 2.0
LONGEST_WAIT = 30.0
SHORTEST_WAIT = 1.0  # also if Kaggle says 0
BACKOFF = wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
Result = TypeVar("Result")


def call_once(
    call: Callable[[], Result], timeout: float, task: Task, credentials: Credentials, folder: Path | None = None
) -> Result:
    """Call the client, which may write files into a folder; its own output is suppressed.

    Raises RetryableError without a usable response, and KaggleError for every other exception of the client.
    """
    try:
        import_client()  # in this thread, as it changes variables meanwhile
        return _with_timeout(call, timeout)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise translate(error, task, credentials, folder) from error


def retrying(timeout: float, sleep: Callable[[float], None], progress: Callable[[], int] = lambda: 0) -> Retrying:
    """Repeat a call while it raises RetryableError.

    Raise that if the next attempt would start after `timeout` seconds in which `progress()` did not increase.
    """
    return Retrying(
        retry=retry_if_exception_type(RetryableError),
        wait=_retry_after_or_backoff,
        stop=_StopWithoutProgress(timeout, progress),
        sleep=sleep,
        before_sleep=_log_retry,
        reraise=True,
    )


class _StopWithoutProgress:
    """Stop after some seconds without progress."""

    def __init__(self, timeout: float, progress: Callable[[], int]) -> None:
        self._timeout, self._progress = timeout, progress
        self._furthest, self._since = progress(), time.monotonic()

    def __call__(self, state: RetryCallState) -> bool:
        """Whether to stop before the next attempt."""
        now, progress = time.monotonic(), self._progress()
        if progress > self._furthest:
            self._furthest, self._since = progress, now
        return now - self._since + state.upcoming_sleep >= self._timeout


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _retry_after_or_backoff(state: RetryCallState) -> float:
    error = _error(state)
    if isinstance(error, RetryableError) and error.retry_after is not None:
        return max(error.retry_after, SHORTEST_WAIT)
    return BACKOFF(state)


def _log_retry(state: RetryCallState) -> None:
    log.info("Kaggle: %s; retry in %.0f s", _error(state), state.upcoming_sleep)


def _with_timeout(call: Callable[[], Result], timeout: float) -> Result:
    """Run a call in a daemon thread, which is abandoned after the timeout: the client itself waits indefinitely."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    with contextlib.redirect_stdout(io.StringIO()):
        thread.start()
        thread.join(timeout)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise TimeoutError(f"no response in {timeout:.0f} s")
