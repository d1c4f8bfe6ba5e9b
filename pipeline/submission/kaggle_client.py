"""The only file that imports the kaggle client: download, upload, scores. Other modules get plain values.

Traps of the client, written for kaggle 2.2.5: importing it authenticates, prints and may exit (it is imported lazily,
its output suppressed); it has no time-outs (every call gets one); a failed upload does not raise (the reference number
is checked); a 401 has no explanation (the places of credentials are searched).
"""

import shlex
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_result, stop_before_delay

from pipeline.errors import KaggleError
from pipeline.progress import log
from pipeline.submission.kaggle_credentials import no_credentials, warn_of_readable_credentials
from pipeline.submission.kaggle_retry import BACKOFF, RetryableError, call_once, retrying
from pipeline.task import Task

REQUEST_TIMEOUT = 60.0  # seconds, of one call
DOWNLOAD_TIMEOUT = 6 * 3600.0
UPLOAD_TIMEOUT = 600.0  # for 4 MB
RETRY_TIMEOUT = 180.0  # of all attempts together
MAX_UPLOAD_ATTEMPTS = 3
Result = TypeVar("Result")


@dataclass(frozen=True)
class Score:
    """Status and scores of a submission; None for a score that Kaggle does not show."""

    ref: int
    status: str
    """pending, complete or error."""
    public: float | None
    private: float | None
    reason: str
    """Why a submission has the status error."""


class KaggleClient:
    """A competition's API, for one account. Every error is a KaggleError of one line."""

    def __init__(
        self,
        task: Task,
        *,
        request_timeout: float = REQUEST_TIMEOUT,
        retry_timeout: float = RETRY_TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._task, self._sleep = task, sleep
        self._request_timeout, self._retry_timeout = request_timeout, retry_timeout
        self._authenticated_api: Any = None

    def download(self, folder: Path) -> Path:
        """Download the competition's zip file into a folder, unless it is there and valid; return its path.

        It gets its name only when it is complete. Interrupted downloads resume.
        """
        name = self._task.zip_name
        path = folder / name
        if path.exists() and not _zip_problem(path, self._task):
            return path
        partial = folder / ".download"
        partial.mkdir(parents=True, exist_ok=True)
        self._call_with_retries(
            lambda api: api.competition_download_files(self._task.competition, path=str(partial), quiet=False),
            "download",
            timeout=DOWNLOAD_TIMEOUT,
            show_output=True,
        )
        downloaded = partial / f"{self._task.competition}.zip"  # named by the client
        problem = _zip_problem(downloaded, self._task)
        if problem:
            downloaded.unlink(missing_ok=True)
            raise KaggleError(
                f"{name}, downloaded from Kaggle, {problem}; it was not saved, run the same command again"
            )
        downloaded.replace(path)
        for leftover in partial.iterdir():
            leftover.unlink()
        partial.rmdir()
        return path

    def num_allowed(self) -> int:
        """Return how many submissions are allowed now."""
        limits = self._call_with_retries(
            lambda api: api.competition_get_submission_limits(self._task.competition), "submission limits"
        )
        return int(limits.num_allowed_now or 0)

    def find(self, text: str) -> Score | None:
        """Return the newest submission whose message contains a text."""
        submissions = self._call_with_retries(
            lambda api: api.competition_submissions(self._task.competition), "list of submissions"
        )
        return next((_score(each) for each in submissions or () if each and text in (each.description or "")), None)

    def score(self, ref: int) -> Score:
        """Return the status and scores of a submission."""
        return _score(self._call_with_retries(lambda api: api.get_submission(ref), f"score of submission {ref}"))

    def upload(self, file: Path, message: str, tag: str) -> int:
        """Submit a file once and return Kaggle's reference number; `tag` is a part of the message that identifies it.

        When the connection breaks, Kaggle's list is searched for the tag before the next attempt.
        """
        for _ in range(MAX_UPLOAD_ATTEMPTS):
            try:
                response = self._call(
                    lambda api: api.competition_submit(str(file), message, self._task.competition, quiet=True),
                    UPLOAD_TIMEOUT,
                )
            except RetryableError as error:
                log.info("upload interrupted (%s); check whether it arrived", error)
                arrived = self.find(tag)
                if arrived is not None:
                    return arrived.ref
                continue
            if response.ref:
                return int(response.ref)
            raise KaggleError(
                f"the upload of {file} was interrupted ({response.message}). Kaggle has no submission of it; run the "
                "same command again"
            )
        raise KaggleError(
            f"the upload of {file} was interrupted {MAX_UPLOAD_ATTEMPTS} times, and Kaggle lists no submission of it. "
            "Check your connection, then run the same command again"
        )

    def wait(self, ref: int, timeout: float) -> Score:
        """Return a submission's score as soon as it has one, or its status after a number of seconds."""
        poll = Retrying(
            retry=retry_if_result(lambda score: score.status == "pending"),
            wait=BACKOFF,
            stop=stop_before_delay(timeout),
            sleep=self._sleep,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome is not None else None,
        )
        return poll(self.score, ref)

    def _call_with_retries(
        self,
        call: Callable[[Any], Result],
        what: str,
        *,
        timeout: float | None = None,
        show_output: bool = False,
    ) -> Result:
        """Call the API for something that changes nothing at Kaggle, with retries."""
        try:
            return retrying(self._retry_timeout, self._sleep)(self._call, call, timeout, show_output=show_output)
        except RetryableError as error:
            raise KaggleError(
                f"request to Kaggle failed: {what}, for {self._retry_timeout:.0f} s ({error}). Check your network, or "
                "try again later; nothing was lost"
            ) from None

    def _call(
        self, call: Callable[[Any], Result], timeout: float | None = None, *, show_output: bool = False
    ) -> Result:
        """Call the API once. Raises as call_once."""
        return call_once(
            lambda: call(self._api()), timeout or self._request_timeout, self._task, show_output=show_output
        )

    def _api(self) -> Any:
        """Return the client's API object, authenticated at the first call."""
        if self._authenticated_api is None:
            warn_of_readable_credentials()
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            try:
                api.authenticate()
            except SystemExit:
                raise KaggleError(no_credentials()) from None
            self._authenticated_api = api
        return self._authenticated_api


def upload_command(submission: Path, message: str, task: Task) -> str:
    """Return the shell command that uploads a submission with the kaggle client alone."""
    return shlex.join(
        ["kaggle", "competitions", "submit", "-c", task.competition, "-f", str(submission), "-m", message]
    )


def _zip_problem(path: Path, task: Task) -> str:
    """Return what is wrong with a download, as a predicate; an empty string if it is complete."""
    if not path.exists():
        return "was not received"
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return "is not a valid zip file"
    expected = {task.train_archive, task.test_archive, task.train_labels_csv, task.sample_submission_csv}
    missing = sorted(expected - names)
    return f"is missing {', '.join(missing)}" if missing else ""


def _score(submission: Any) -> Score:
    status = submission.status.name.rsplit("_", 1)[-1].lower() if submission.status is not None else "pending"
    public, private = _parse_score(submission.public_score), _parse_score(submission.private_score)
    return Score(int(submission.ref), status, public, private, submission.error_description or "")


def _parse_score(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
