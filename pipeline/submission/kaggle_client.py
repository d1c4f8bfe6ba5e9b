"""The only file that knows the kaggle client: download, upload, scores. Everything else sees plain values.

The client's traps, and what is done here: importing it authenticates, prints and may end the process (imported late,
its words kept back); it knows no time-outs (each call has a deadline); a failed upload raises nothing (the reference
number is looked at); 401 says only "help" (the places of credentials are looked through). Written for kaggle 2.2.5.
"""

import contextlib
import io
import shlex
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.task import COMPETITION, SAMPLE_SUBMISSION_CSV, TRAIN_LABELS_CSV, ZIP_NAME
from pipeline.submission.kaggle_credentials import no_credentials, redacted, shadowing_token, warn_of_open_keys
from pipeline.errors import KaggleError
from pipeline.progress import log

RULES = f"https://www.kaggle.com/c/{COMPETITION}/rules"
MEMBERS = {"train.7z", "test.7z", TRAIN_LABELS_CSV, SAMPLE_SUBMISSION_CSV}
REQUEST_TIMEOUT = 60.0  # for one call
DOWNLOAD_SECONDS = 6 * 3600.0
UPLOAD_SECONDS = 600.0  # 4 MB
RETRY_TIMEOUT = 180.0  # for a service that says "later"
FIRST_WAIT = 2.0
LONGEST_WAIT = 30.0
LIMIT_RESET_MESSAGE = "The daily limit begins anew at 00:00 UTC"
NUM_UPLOADS = 3  # attempts, each after a look whether the one before arrived
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Score:
    """What Kaggle says of a submission. Scores are None until there are any."""

    ref: int
    status: str
    """pending, complete or error."""
    public: float | None
    private: float | None
    reason: str
    """Why a submission has the status error."""


class _RetryableError(Exception):
    """A call that broke off: it may have reached Kaggle, or not."""


class Kaggle:
    """The service, for one account. Every error is a KaggleError of one line."""

    def __init__(
        self,
        *,
        request_timeout: float = REQUEST_TIMEOUT,
        retry_timeout: float = RETRY_TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._answer_seconds, self._patience_seconds, self._sleep = request_timeout, retry_timeout, sleep
        self._client: Any = None

    def download(self, folder: Path) -> Path:
        """Fetch cifar-10.zip into a folder and return its path; what is there and whole is not fetched again.

        It takes its name only when it is whole. What broke off goes on from where it was.
        """
        path = folder / ZIP_NAME
        if path.exists() and not _validate_zip(path):
            return path
        partial = folder / ".download"
        partial.mkdir(parents=True, exist_ok=True)
        self._call_with_retries(
            lambda api: api.competition_download_files(COMPETITION, path=str(partial), quiet=False),
            "the download",
            seconds=DOWNLOAD_SECONDS,
            is_loud=True,
        )
        fetched = partial / ZIP_NAME
        faults = _validate_zip(fetched)
        if faults:
            fetched.unlink(missing_ok=True)
            raise KaggleError(f"what Kaggle sent as {ZIP_NAME} {faults}; nothing was kept, give the same command again")
        fetched.replace(path)
        for rest in partial.iterdir():
            rest.unlink()
        partial.rmdir()
        return path

    def num_allowed(self) -> int:
        """Return how many submissions are allowed now."""
        limits = self._call_with_retries(
            lambda api: api.competition_get_submission_limits(COMPETITION), "the submission limits"
        )
        return int(limits.num_allowed_now or 0)

    def find(self, text: str) -> Score | None:
        """Return the newest submission whose message holds a text."""
        found = self._call_with_retries(lambda api: api.competition_submissions(COMPETITION), "the list of submissions")
        return next((_score(each) for each in found or () if each and text in (each.description or "")), None)

    def score(self, ref: int) -> Score:
        """Return what is known of a submission."""
        return _score(self._call_with_retries(lambda api: api.get_submission(ref), f"the score of submission {ref}"))

    def upload(self, file: Path, message: str, mark: str) -> int:
        """Submit a file once and return Kaggle's reference number; `mark` is the part of the message that finds it.

        When the connection breaks, Kaggle is asked whether the submission arrived before it is tried again.
        """
        for _ in range(NUM_UPLOADS):
            try:
                answer = self._ask(
                    lambda api: api.competition_submit(str(file), message, COMPETITION, quiet=True), UPLOAD_SECONDS
                )
            except _RetryableError as broken:
                log.info("the connection broke in the upload (%s); looking whether it arrived", broken)
                arrived = self.find(mark)
                if arrived is not None:
                    return arrived.ref
                continue
            if answer.ref:
                return int(answer.ref)
            raise KaggleError(
                f"the upload of {file} broke off ({answer.message}); Kaggle has no submission of it. Give the same "
                "command again"
            )
        raise KaggleError(
            f"the upload of {file} broke off {NUM_UPLOADS} times, and Kaggle lists no submission of it. See to the "
            "connection, then give the same command again"
        )

    def wait(self, ref: int, seconds: float) -> Score:
        """Return a submission's score when it has one, or what is known when the time is over."""
        until, pause = time.monotonic() + seconds, FIRST_WAIT
        while True:
            score = self.score(ref)
            if score.status != "pending" or time.monotonic() + pause > until:
                return score
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT)

    def _call_with_retries(
        self,
        call: Callable[[Any], Answer],
        what: str,
        *,
        seconds: float | None = None,
        is_loud: bool = False,
    ) -> Answer:
        """ModelPass for something that changes nothing at Kaggle: a broken connection and "later" are tried again."""
        began, pause = time.monotonic(), FIRST_WAIT
        while True:
            try:
                return self._ask(call, seconds, is_loud=is_loud)
            except _RetryableError as broken:
                error, asked = broken, _retry_after(broken)
            pause_now = pause if asked is None else asked
            if time.monotonic() - began + pause_now > self._patience_seconds:
                raise KaggleError(
                    f"{what} could not be had from Kaggle in {self._patience_seconds:.0f} s ({error}). See to the "
                    "network, or try again later; nothing was lost"
                ) from None
            log.info("Kaggle: %s; trying again in %.0f s", error, pause_now)
            self._sleep(pause_now)
            pause = min(2 * pause, LONGEST_WAIT)

    def _ask(self, call: Callable[[Any], Answer], seconds: float | None = None, *, is_loud: bool = False) -> Answer:
        """Call the client. Raises _RetryableError if there is no answer, and KaggleError for a "no"."""
        import requests

        seconds = seconds or self._answer_seconds
        try:
            return _within(seconds, lambda: call(self._api()), is_loud=is_loud)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status == 429 or status >= 500:
                raise _RetryableError(f"it answered {status}") from error
            raise KaggleError(_explain(status, redacted(str(error)))) from None
        except (requests.RequestException, TimeoutError, OSError) as error:
            raise _RetryableError(redacted(f"{type(error).__name__}: {str(error)[:200]}")) from error

    def _api(self) -> Any:
        if self._client is None:
            warn_of_open_keys()
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            try:
                api.authenticate()
            except SystemExit:
                raise KaggleError(no_credentials()) from None
            self._client = api
        return self._client


def upload_command(submission: Path, message: str) -> str:
    """Return the line that uploads a submission with the client."""
    return shlex.join(["kaggle", "competitions", "submit", "-c", COMPETITION, "-f", str(submission), "-m", message])


def _within(seconds: float, call: Callable[[], Answer], *, is_loud: bool) -> Answer:
    """Run a call in a thread that is left behind when its time is over: the client itself would wait for ever."""
    result: list[Answer] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    quiet = contextlib.nullcontext() if is_loud else contextlib.redirect_stdout(io.StringIO())
    with quiet:
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    if failure:
        raise failure[0]
    return result[0]


def _validate_zip(path: Path) -> str:
    """Say what is wrong with a download, in words that follow its name; nothing if it is whole."""
    if not path.exists():
        return "did not arrive"
    try:
        with zipfile.ZipFile(path) as archive:
            missing = MEMBERS - set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return "is no whole zip"
    return f"lacks {', '.join(sorted(missing))}" if missing else ""


def _score(submission: Any) -> Score:
    status = submission.status.name.rsplit("_", 1)[-1].lower() if submission.status is not None else "pending"

    def number(text: Any) -> float | None:
        try:
            return float(text)
        except (TypeError, ValueError):
            return None

    public, private = number(submission.public_score), number(submission.private_score)
    return Score(int(submission.ref), status, public, private, submission.error_description or "")


def _retry_after(unclear: _RetryableError) -> float | None:
    """Return the seconds that the service asks to wait, if it says so."""
    response = getattr(unclear.__cause__, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isdigit() else None


def _explain(status: int, words: str) -> str:
    if status == 401:
        shadow = shadowing_token()
        hint = (
            f" The token in {shadow} is asked before any key, and shadows it; remove it if it has expired."
            if shadow
            else ""
        )
        return (
            f"Kaggle refuses the credentials (401: {words}): the token or key is wrong or has expired. Make a new one "
            f"on https://www.kaggle.com/settings.{hint}"
        )
    if status == 403:
        return f"Kaggle refuses (403: {words}). Accept the competition's rules in a browser: {RULES}"
    if status == 404:
        return f"Kaggle does not find it (404: {words}): the competition {COMPETITION} is closed, or has another name"
    if "limit" in words.lower():
        return f"{words} (Kaggle, {status}). {LIMIT_RESET_MESSAGE}"
    return f"Kaggle refuses ({status}: {words})"
