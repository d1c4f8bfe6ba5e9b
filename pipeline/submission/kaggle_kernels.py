"""What this project wants of Kaggle's kernels: push, status, log, output, quota. Other modules get plain values."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests

from pipeline.errors import KaggleError
from pipeline.progress import log
from pipeline.submission.find_credentials import SETTINGS_PAGE
from pipeline.submission.kaggle_client import DOWNLOAD_TIMEOUT, KaggleClient
from pipeline.submission.kaggle_errors import RetryableError
from pipeline.submission.kaggle_session import for_output, user_name

PUSH_TIMEOUT = 180.0  # seconds, for 0.2 MB
SCRIPT = "script.py"
STATUS = {"new_script": "queued", "cancel_requested": "cancelled", "cancel_acknowledged": "cancelled"}
FINAL = ("complete", "error", "cancelled")
NOT_FOUND = (403, 404)  # Kaggle answers 403 for a private kernel and for none


@dataclass(frozen=True)
class Kernel:
    """A private script kernel, as it is pushed."""

    name: str
    """The last part of its address; its title is made from it."""
    source: str
    accelerator: str
    """Kaggle's name of it; empty: none."""
    internet: bool
    kernels: tuple[str, ...] = ()
    """Names of this account's kernels whose output is mounted."""
    datasets: tuple[str, ...] = ()
    """OWNER/NAME of mounted datasets."""
    models: tuple[str, ...] = ()
    """OWNER/NAME/FRAMEWORK/VARIATION/VERSION of mounted models."""


@dataclass(frozen=True)
class Status:
    """The status of a kernel's latest version."""

    status: str
    """queued, running, complete, error or cancelled."""
    message: str

    @property
    def is_final(self) -> bool:
        """Whether the kernel has ended."""
        return self.status in FINAL

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without success."""
        return self.is_final and self.status != "complete"


@dataclass(frozen=True)
class Quota:
    """The account's GPU time of this week."""

    used: timedelta
    total: timedelta
    reset: datetime | None
    """UTC."""

    @property
    def left(self) -> timedelta:
        """What is left, at least zero."""
        return max(self.total - self.used, timedelta())

    def __str__(self) -> str:
        """Return hours used and allowed, and when they are reset."""
        hours = [each.total_seconds() / 3600 for each in (self.used, self.total)]
        reset = f", reset on {self.reset:%Y-%m-%d %H:%M} UTC" if self.reset else ""
        return f"{hours[0]:.1f} of {hours[1]:.1f} h used{reset}"


class KernelClient(KaggleClient):
    """The kernels of one account. Every error is a KaggleError of one line."""

    def url(self, name: str) -> str:
        """Return the address of a kernel."""
        return f"https://www.kaggle.com/code/{self._path(name)}"

    def find_kernel(self, name: str) -> str | None:
        """Return the source of a kernel's latest version; None if there is no such kernel."""
        path = self._path(name)
        return self._call_with_retries(lambda api: _pull(api, path), f"kernel {name}")

    def push_kernel(self, kernel: Kernel, mark: str) -> None:
        """Push a kernel once, which starts it; `mark` is a part of its source that no other has.

        When the connection breaks, the kernel is looked up before the next attempt.
        """
        path, attempts = self._path(kernel.name), 0

        def push(api: Any) -> None:
            if attempts == 1 or mark not in (_pull(api, path) or ""):
                self._push(api, kernel, path)

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self._call(push, PUSH_TIMEOUT)
            except RetryableError as error:
                if error.is_timeout:
                    raise KaggleError(
                        f"the push of {kernel.name} has no response ({error}), and may arrive later. Run the same "
                        "command again: it looks whether it arrived before it pushes anything"
                    ) from None
                raise

        self._retry(attempt, f"push of {kernel.name}")

    def _push(self, api: Any, kernel: Kernel, path: str) -> None:
        _check_names(api, kernel)
        with TemporaryDirectory() as folder:
            Path(folder, SCRIPT).write_text(kernel.source, encoding="utf-8")
            metadata = {
                "id": path,
                "title": kernel.name.replace("-", " "),
                "code_file": SCRIPT,
                "language": "python",
                "kernel_type": "script",
                "is_private": True,
                "enable_gpu": bool(kernel.accelerator),
                "enable_internet": kernel.internet,
                "competition_sources": [self._task.competition],
                "kernel_sources": [self._path(name) for name in kernel.kernels],
                "dataset_sources": list(kernel.datasets),
                "model_sources": list(kernel.models),
            }
            Path(folder, api.KERNEL_METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")
            try:
                response = api.kernels_push(folder, acc=kernel.accelerator or None)
            except requests.HTTPError as error:
                if error.response is not None and error.response.status_code in (400, 403):
                    raise KaggleError(self._explain_push(str(error))) from None
                raise
        if response.error:
            raise KaggleError(self._explain_push(response.error))
        if response.invalid_competition_sources:
            raise KaggleError(
                "Kaggle does not give this account the competition's files; the kernel will fail. Accept the "
                f"competition's rules in a browser: https://www.{self._task.url}/rules"
            )
        invalid = [
            *response.invalid_kernel_sources, *response.invalid_dataset_sources, *response.invalid_model_sources
        ]  # fmt: skip
        if invalid:
            raise KaggleError(f"Kaggle can't mount {', '.join(invalid)} in the kernel: check name and access")

    def _explain_push(self, message: str) -> str:
        """Return why a kernel was not started, and what to do."""
        text, lower = f"Kaggle did not start the kernel: {' '.join(message.split())}", message.lower()
        if "phone" in lower or "verif" in lower:
            return f"{text}. GPUs and internet need a verified phone number: {SETTINGS_PAGE}"
        if "session count" in lower:
            return f"{text}. Wait for another kernel of yours, or stop it: https://www.kaggle.com/code"
        if "quota" in lower:
            return f"{text}. Wait for the weekly reset, or use --accelerator none"
        if "rule" in lower or "competition" in lower:
            return f"{text}. Accept the competition's rules in a browser: https://www.{self._task.url}/rules"
        return text

    def kernel_status(self, name: str) -> Status:
        """Return the status of a kernel's latest version."""
        path = self._path(name)
        response = self._call_with_retries(lambda api: _access(path, api.kernels_status), f"status of {name}")
        status = response.status.name.lower()
        return Status(STATUS.get(status, status), " ".join((response.failure_message or "").split()))

    def open_log(self, name: str) -> Iterator[str]:
        """Return an iterator over the texts of a kernel's log from its start; it waits for more until the kernel ends.

        Raises KaggleError or RetryableError if there is no first text soon; its iteration, any error of the network.
        """
        path = self._path(name)

        def connect(api: Any) -> Iterator[str]:
            events = api.kernels_logs_stream(path)
            # The first one makes the connection, for which the environment has to be the client's.
            return _texts(chain([next(events, {})], events))

        return self._call(connect)

    def read_log(self, name: str) -> list[str]:
        """Return the texts of the log of a kernel that has ended. Raises KaggleError or RetryableError."""
        path = self._path(name)
        return self._call(lambda api: list(_texts(api.kernels_logs_stream(path))))

    def fetch_output(self, name: str, folder: Path, pattern: str) -> None:
        """Download the files of a kernel's output whose names match a pattern; what is there already is kept."""
        path = self._path(name)
        self._call_with_retries(
            lambda api: _access(path, lambda kernel: for_output(api).kernels_output(kernel, str(folder), pattern)),
            f"output of {name}",
            timeout=DOWNLOAD_TIMEOUT,
            folder=folder,
            progress=lambda: sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()),
        )

    def quota(self) -> Quota | None:
        """Return the GPU quota; None if Kaggle does not return it."""
        try:
            quota = self._call(lambda api: api.quota_view())
        except (KaggleError, RetryableError) as error:
            log.info("GPU quota unknown (%s)", error)
            return None
        gpu = quota.gpu_quota
        if gpu is None or gpu.total_time_allowed is None:
            return None
        return Quota(gpu.time_used or timedelta(), gpu.total_time_allowed, quota.quota_refresh_time)

    def _path(self, name: str) -> str:
        """Return OWNER/NAME of a kernel of this account."""
        return f"{self._owner}/{name}"

    @cached_property
    def _owner(self) -> str:
        owner = self._call_with_retries(user_name, "user name")
        if not owner:
            raise KaggleError(f"the Kaggle credentials have no user name; make new ones on {SETTINGS_PAGE}")
        return owner


def _check_names(api: Any, kernel: Kernel) -> None:
    """Raise KaggleError for names of datasets and models that the client would reject."""
    try:
        for name in kernel.datasets:
            api.validate_dataset_string(name)
        for name in kernel.models:
            api.validate_model_instance_version_string(name)
    except ValueError as error:
        raise KaggleError(f"{name!r} can't be mounted: {error}") from None


def _pull(api: Any, path: str) -> str | None:
    with TemporaryDirectory() as folder:
        try:
            return Path(api.kernels_pull(path, folder)).read_text(encoding="utf-8")
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in NOT_FOUND:
                return None
            raise


def _access(path: str, call: Callable[[str], Any]) -> Any:
    """Call the client for a kernel; its advice about names that do not exist does not fit ours."""
    try:
        return call(path)
    except ValueError as error:
        if "Cannot access kernel" not in str(error):
            raise
        raise KaggleError(f"Kaggle gives no access to the kernel https://www.kaggle.com/code/{path}") from None


def _texts(events: Iterable[Any]) -> Iterator[str]:
    for event in events:
        yield str(event.get("data") or "")
