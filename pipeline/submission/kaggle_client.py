"""What this project wants of Kaggle: download, upload, scores. Other modules get plain values.

The client has no time-outs (every call gets one), and a failed upload does not raise (the reference number is checked);
see kaggle_session.py for its other traps.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_result, stop_before_delay

from pipeline.advice import shell_command
from pipeline.errors import KaggleError
from pipeline.locks import file_lock
from pipeline.progress import log
from pipeline.submission.credential_values import Credentials
from pipeline.submission.find_credentials import find_credentials
from pipeline.submission.kaggle_answers import Score, parse_limits, parse_score
from pipeline.submission.kaggle_credentials import warn_of_readable_credentials
from pipeline.submission.kaggle_errors import RetryableError
from pipeline.submission.kaggle_retry import BACKOFF, call_once, retrying
from pipeline.submission.kaggle_session import client_environment, for_download, open_api
from pipeline.submission.kaggle_zip import PartialDownload, local_errors, zip_problem
from pipeline.task import Task

REQUEST_TIMEOUT = 60.0  # seconds, of one call
DOWNLOAD_TIMEOUT = 24 * 3600.0  # it ends before if no data arrives within REQUEST_TIMEOUT
UPLOAD_TIMEOUT = 600.0  # for 4 MB
RETRY_TIMEOUT = 180.0  # of all attempts together
MAX_UPLOAD_ATTEMPTS = 3
Result = TypeVar("Result")


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
        self._credentials: Credentials | None = None
        self._authenticated_api: Any = None

    def download(self, folder: Path, *, again: bool = False) -> Path:
        """Download the competition's zip file into a folder, unless it is there and valid; return its path.

        `again` downloads it in any case. It gets its name, and replaces an older file, only when it is complete and its
        checksums are right. Interrupted downloads resume.
        """
        path = folder / self._task.zip_name
        with local_errors():
            problem = zip_problem(path, self._task)
            if not problem and not again:
                return path
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(folder / ".download.lock", wait_for=f"it downloads {self._task.zip_name}"):
                # Another process may have downloaded it meanwhile.
                if again or zip_problem(path, self._task):
                    if path.exists() and problem:
                        log.warning("%s %s; downloading it again", path, problem)
                    self._download(PartialDownload(folder, self._task), path)
        return path

    def _download(self, partial: PartialDownload, path: Path) -> None:
        partial.prepare()
        log.info("downloading %s", path)
        try:
            self._call_with_retries(
                lambda api: for_download(api, self._request_timeout).competition_download_files(
                    self._task.competition, path=str(partial.folder), quiet=False
                ),
                "download",
                timeout=DOWNLOAD_TIMEOUT,
                folder=partial.folder,
                progress=partial.size,
            )
        finally:
            partial.remove_empty_folder()
        problem = zip_problem(partial.file, self._task)
        if problem:
            partial.discard()
            raise KaggleError(
                f"{path.name}, downloaded from Kaggle, {problem}; it was not saved: run the same command again, or "
                f"download it in a browser: https://www.{self._task.url}/data"
            )
        partial.move_to(path)

    def num_allowed(self) -> int:
        """Return how many submissions are allowed now. Raises KaggleError for an account outside the competition."""
        limits = self._call_with_retries(
            lambda api: parse_limits(api.competition_get_submission_limits(self._task.competition)), "submission limits"
        )
        if not any(limits):
            raise KaggleError(
                "Kaggle allows this account no submissions, today and in total. Accept the competition's rules in a "
                f"browser: https://www.{self._task.url}/rules"
            )
        return limits[0]

    def find(self, text: str) -> Score | None:
        """Return the newest submission whose message contains a text."""

        def find(api: Any) -> Score | None:
            submissions = api.competition_submissions(self._task.competition)
            return next(
                (parse_score(each) for each in submissions or () if each and text in (each.description or "")), None
            )

        return self._call_with_retries(find, "list of submissions")

    def score(self, ref: int) -> Score:
        """Return the status and scores of a submission."""
        return self._call_with_retries(lambda api: parse_score(api.get_submission(ref)), f"score of submission {ref}")

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
                if error.is_timeout:
                    raise KaggleError(
                        f"the upload of {file} has no response ({error}), and may arrive later. Run the same command "
                        "again: it looks whether it arrived before it sends anything"
                    ) from None
                log.info("upload interrupted (%s); check whether it arrived", error)
                arrived = self.find(tag)
                if arrived is not None:
                    return arrived.ref
                continue
            if str(response.ref or "").isdecimal() and int(response.ref):
                return int(response.ref)
            raise KaggleError(
                f"the upload of {file} was interrupted ({response.message or 'no reason given'}). Kaggle has no "
                "submission of it; run the same command again"
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
        folder: Path | None = None,
        progress: Callable[[], int] = lambda: 0,
    ) -> Result:
        """Call the API for something that changes nothing at Kaggle, with retries."""
        return self._retry(lambda: self._call(call, timeout, folder), what, progress)

    def _retry(self, attempt: Callable[[], Result], what: str, progress: Callable[[], int] = lambda: 0) -> Result:
        """Repeat what may raise RetryableError. Raises KaggleError in the end."""
        try:
            return retrying(self._retry_timeout, self._sleep, progress)(attempt)
        except RetryableError as error:
            raise KaggleError(
                f"request to Kaggle failed: {what}, retried for up to {self._retry_timeout:.0f} s ({error}). Check "
                "your network, or try again later; nothing was lost"
            ) from None

    def _call(self, call: Callable[[Any], Result], timeout: float | None = None, folder: Path | None = None) -> Result:
        """Call the API once. Raises as call_once."""
        if self._credentials is None:
            warn_of_readable_credentials()
            self._credentials = find_credentials()
        credentials = self._credentials
        with client_environment(credentials.variables, hide_home=credentials.kind != "login"):
            return call_once(
                lambda: call(self._api(credentials)), timeout or self._request_timeout, self._task, credentials, folder
            )

    def _api(self, credentials: Credentials) -> Any:
        """Return the client's API object, authenticated at the first call."""
        if self._authenticated_api is None:
            self._authenticated_api = open_api(credentials)
        return self._authenticated_api


def upload_command(submission: Path, message: str, task: Task) -> str:
    """Return the shell command that uploads a submission with the kaggle client alone."""
    return shell_command(
        ["kaggle", "competitions", "submit", "-c", task.competition, "-f", str(submission), "-m", message]
    )
