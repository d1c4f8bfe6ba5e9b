"""Every exception of the kaggle client -> one line without secrets, and whether another attempt may help."""

import errno
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from pathlib import Path

import requests
import urllib3.exceptions as urllib3_errors

from pipeline.error_messages import explain_error
from pipeline.errors import KaggleError, UserError
from pipeline.submission.credential_values import Credentials
from pipeline.submission.find_credentials import SETTINGS_PAGE
from pipeline.submission.kaggle_credentials import redacted
from pipeline.submission.kaggle_session import ANOTHER_SENDER, WEB_PAGE, is_web_page
from pipeline.submission.network_settings import PROXY_LOGIN, explain_settings, proxies
from pipeline.task import Task

LIMIT_RESET_MESSAGE = "The daily limit is reset at 00:00 UTC"
MAX_TEXT = 300
NOT_JSON = "a web page or other text that is not JSON arrived, not the answer of Kaggle's API"
LOGIN_PAGE_STATUS = 511  # RFC 6585, section 6
SOCKET_ERRORS = (socket.gaierror, socket.herror, ssl.SSLError, ConnectionError, TimeoutError)
NETWORK_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    requests.exceptions.RetryError,
    urllib3_errors.HTTPError,
    http.client.HTTPException,
    *SOCKET_ERRORS,
)
NETWORK_NUMBERS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
# Without a file's name these errors are local; others, such as EACCES, may be those of a socket.
LOCAL_NUMBERS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM
)  # fmt: skip


class RetryableError(Exception):
    """A call without a usable response: it may have reached Kaggle, or not."""

    def __init__(self, message: str, *, retry_after: float | None = None, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that Kaggle wants the client to wait, if its response has them."""
        self.is_timeout = is_timeout
        """The request was sent, and may still be processed."""


def translate(
    error: BaseException, task: Task, credentials: Credentials | None, folder: Path | None = None
) -> UserError | RetryableError:
    """Return what to raise in place of an exception of the client, which may write files into `folder`."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _of_status(error, error.response, task, credentials)
    chain = list(_chain(error))
    local = next((each for each in chain if _is_local(each)), None)
    if local is not None:
        return _kaggle_error(explain_error(_with_path(local, folder)))
    remedy = explain_settings(chain)
    if remedy:
        return _kaggle_error(f"{remedy} ({_one_line(error)})")
    if any(isinstance(each, JSONDecodeError | requests.TooManyRedirects) for each in chain):
        return _kaggle_error(f"{NOT_JSON}; {ANOTHER_SENDER}{proxies()}")
    if _is_network(error):
        is_timeout = isinstance(error, TimeoutError | requests.Timeout)
        return RetryableError(redacted(f"{_one_line(error)}{proxies()}"), is_timeout=is_timeout)
    if isinstance(error, ImportError):
        remedy = "python -m pip install -r requirements.txt"
        return _kaggle_error(f"the kaggle client can't be loaded ({_one_line(error)}); {remedy}")
    return _kaggle_error(
        f"the kaggle client failed ({_one_line(error)}); if that happens again, download or upload in a browser: "
        f"https://www.{task.url}"
    )


def _kaggle_error(text: str) -> KaggleError:
    return KaggleError(redacted(text))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it wraps, the outermost first."""
    queue, seen = [error], set()
    while queue:
        each = queue.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        context = None if each.__suppress_context__ else each.__context__
        wrapped = (each.__cause__, context, getattr(each, "reason", None), *each.args)
        queue += [inner for inner in wrapped if isinstance(inner, BaseException)]


def _is_local(error: BaseException) -> bool:
    """Whether an error concerns a file of this machine."""
    # All errors of requests are OSErrors.
    if not isinstance(error, OSError) or isinstance(error, (requests.RequestException, *SOCKET_ERRORS)):
        return False
    return error.filename is not None or error.errno in LOCAL_NUMBERS


def _with_path(error: BaseException, folder: Path | None) -> BaseException:
    """Return an error of a write, which names no file, with the folder that is written to."""
    if not isinstance(error, OSError) or error.filename is not None or folder is None:
        return error
    return OSError(error.errno, error.strerror or str(error), str(folder))


def _is_network(error: BaseException) -> bool:
    return isinstance(error, NETWORK_ERRORS) or (isinstance(error, OSError) and error.errno in NETWORK_NUMBERS)


def _one_line(error: BaseException) -> str:
    """Return class and text of an error, shortened; the text of the innermost error of urllib3, which says the most."""
    inner = [each for each in _chain(error) if isinstance(each, urllib3_errors.HTTPError)]
    text = " ".join(str(inner[-1] if inner else error).split())[:MAX_TEXT]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of_status(
    error: requests.HTTPError, response: requests.Response, task: Task, credentials: Credentials | None
) -> KaggleError | RetryableError:
    status = response.status_code
    response.close()  # the client closes no response of a download
    if status == 429 or (status >= 500 and status != LOGIN_PAGE_STATUS):
        retry_after = _retry_after(response)
        wait = "" if retry_after is None else f", retry after {retry_after:.0f} s"
        return RetryableError(f"status {status}{wait}", retry_after=retry_after)
    if status == 407:
        return _kaggle_error(f"{PROXY_LOGIN}{proxies()}")
    if status == LOGIN_PAGE_STATUS or is_web_page(response):
        return _kaggle_error(f"{WEB_PAGE} (status {status}); {ANOTHER_SENDER}{proxies()}")
    return _kaggle_error(
        _explain(status, " ".join(str(error).split())[:MAX_TEXT] or "no reason given", task, credentials)
    )


def _retry_after(response: requests.Response) -> float | None:
    """Return how many seconds to wait, from a number or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _explain(status: int, message: str, task: Task, credentials: Credentials | None) -> str:
    """Return what Kaggle rejected and what to do."""
    if status == 401:
        origin = credentials.origin if credentials else "use"
        hint = ""
        if credentials is not None and credentials.kind == "token":
            hint = f" The token in {origin} takes precedence over the API key; remove it if it has expired."
        return (
            f"Kaggle rejected the credentials (401: {message}): the token or key in {origin} is wrong or has expired. "
            f"Make a new one on {SETTINGS_PAGE}.{hint}"
        )
    if status == 403:
        is_account = any(word in message.lower() for word in ("phone", "verif", "banned", "suspended"))
        rules = f"Accept the competition's rules in a browser: https://www.{task.url}/rules"
        remedy = f"See {SETTINGS_PAGE}" if is_account else rules
        return f"Kaggle rejected the request (403: {message}). {remedy}"
    if status == 404:
        return (
            f"not found on Kaggle (404: {message}): the competition {task.competition} is closed, or has another name"
        )
    if "limit" in message.lower() or "allowance" in message.lower():
        return f"{message} (Kaggle, {status}). {LIMIT_RESET_MESSAGE}"
    return f"Kaggle rejected the request ({status}: {message})"
