"""Calls of the kaggle client: time-outs, retries with back-off, one error class to retry and one to give up."""

import contextlib
import io
import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_exponential

from pipeline.errors import KaggleError
from pipeline.progress import log
from pipeline.submission.kaggle_credentials import redacted, shadowing_token
from pipeline.task import Task

FIRST_WAIT = 2.0
LONGEST_WAIT = 30.0
BACKOFF = wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
LIMIT_RESET_MESSAGE = "The daily limit is reset at 00:00 UTC"
Result = TypeVar("Result")


class RetryableError(Exception):
    """A call without a usable response: it may have reached Kaggle, or not."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that Kaggle wants the client to wait, if it sent a number."""


def call_once(call: Callable[[], Result], timeout: float, task: Task, *, show_output: bool = False) -> Result:
    """Call the client. Raises RetryableError without a usable response, KaggleError if Kaggle rejects the request."""
    import requests

    try:
        return _with_timeout(call, timeout, show_output=show_output)
    except requests.HTTPError as error:
        response = error.response
        status = response.status_code if response is not None else 0
        if response is not None and (status == 429 or status >= 500):
            retry_after = response.headers.get("Retry-After", "")
            raise RetryableError(f"status {status}", float(retry_after) if retry_after.isdigit() else None) from error
        raise KaggleError(_explain(status, redacted(str(error)), task)) from None
    except (requests.RequestException, TimeoutError, OSError) as error:
        raise RetryableError(redacted(f"{type(error).__name__}: {str(error)[:200]}")) from error


def retrying(timeout: float, sleep: Callable[[float], None]) -> Retrying:
    """Repeat a call while it raises RetryableError; raise that if the next attempt would start after the timeout."""
    return Retrying(
        retry=retry_if_exception_type(RetryableError),
        wait=_retry_after_or_backoff,
        stop=stop_before_delay(timeout),
        sleep=sleep,
        before_sleep=_log_retry,
        reraise=True,
    )


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _retry_after_or_backoff(state: RetryCallState) -> float:
    error = _error(state)
    if isinstance(error, RetryableError) and error.retry_after is not None:
        return error.retry_after
    return BACKOFF(state)


def _log_retry(state: RetryCallState) -> None:
    log.info("Kaggle: %s; retry in %.0f s", _error(state), state.upcoming_sleep)


def _with_timeout(call: Callable[[], Result], timeout: float, *, show_output: bool) -> Result:
    """Run a call in a daemon thread, which is abandoned after the timeout: the client itself waits indefinitely."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    with contextlib.nullcontext() if show_output else contextlib.redirect_stdout(io.StringIO()):
        thread.start()
        thread.join(timeout)
    if thread.is_alive():
        raise TimeoutError(f"no response in {timeout:.0f} s")
    if errors:
        raise errors[0]
    return results[0]


def _explain(status: int, message: str, task: Task) -> str:
    """Return what Kaggle rejected and what to do."""
    if status == 401:
        token = shadowing_token()
        hint = f" The token in {token} takes precedence over the API key; remove it if it has expired." if token else ""
        return (
            f"Kaggle rejected the credentials (401: {message}): the token or key is wrong or has expired. Make a new "
            f"one on https://www.kaggle.com/settings.{hint}"
        )
    if status == 403:
        return (
            f"Kaggle rejected the request (403: {message}). Accept the competition's rules in a browser: "
            f"https://www.{task.url}/rules"
        )
    if status == 404:
        return (
            f"not found on Kaggle (404: {message}): the competition {task.competition} is closed, or has another name"
        )
    if "limit" in message.lower():
        return f"{message} (Kaggle, {status}). {LIMIT_RESET_MESSAGE}"
    return f"Kaggle rejected the request ({status}: {message})"
