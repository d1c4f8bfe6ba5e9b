"""The status and the log of a kernel, followed until its end."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue

from pipeline.errors import KaggleError
from pipeline.progress import log
from pipeline.submission.kaggle_errors import RetryableError
from pipeline.submission.kaggle_kernels import KernelClient, Status

POLL_SECONDS = 10.0
LAST_LINES = 3  # of the log of a kernel that failed, if none of them is an error
CLOCK = re.compile(r"^\d\d:\d\d:\d\d ")  # of Kaggle's machine, at the start of a logged line


def follow(client: KernelClient, name: str) -> Status:
    """Log what a kernel logs until it ends, and return its status. The kernel runs on if this is interrupted."""
    log_of_kernel = _Log(client, name)
    shown = ""
    while True:
        status = client.kernel_status(name)
        if status.status != shown:
            log.info("kernel %s: %s", client.url(name), status.status)
            shown = status.status
        if status.is_final:
            log_of_kernel.show_rest()
            return status
        if status.status == "running":
            log_of_kernel.show_new()
        time.sleep(POLL_SECONDS)


def last_lines(client: KernelClient, name: str) -> str:
    """Return on one line why a kernel failed: its last error, else its last lines; empty without a log."""
    try:
        lines = [line.strip() for line in "".join(client.read_log(name)).splitlines() if line.strip()]
    except (KaggleError, RetryableError):
        return ""
    errors = [line for line in lines if line.startswith("error:")]
    return errors[-1].removeprefix("error:").strip() if errors else " | ".join(lines[-LAST_LINES:])


class _Log:
    """The log of a kernel, read by a thread; after a broken connection Kaggle sends it from its start."""

    def __init__(self, client: KernelClient, name: str) -> None:
        self._client, self._name = client, name
        self._texts: SimpleQueue[str] = SimpleQueue()
        self._num_texts, self._line = 0, ""
        self._reader: threading.Thread | None = None

    def show_new(self) -> None:
        """Log the lines that have arrived; connect if there is no connection."""
        if self._reader is None or not self._reader.is_alive():
            self._show_arrived()
            # Without a connection there is no log for now; errors that matter are those of the status.
            with suppress(KaggleError, RetryableError):
                texts = self._client.open_log(self._name)
                self._reader = threading.Thread(target=self._read, args=(texts, self._num_texts), daemon=True)
                self._reader.start()
        self._show_arrived()

    def show_rest(self) -> None:
        """Log the lines of a kernel that has ended, to the last one."""
        if self._reader is not None:
            self._reader.join(POLL_SECONDS)
        self._show_arrived()
        with suppress(KaggleError, RetryableError):
            for text in self._client.read_log(self._name)[self._num_texts :]:
                self._show(text)
        self._show("\n")

    def _read(self, texts: Iterator[str], num_shown: int) -> None:
        with suppress(Exception):  # a broken connection: the next call connects again
            for text in islice(texts, num_shown, None):
                self._texts.put(text)

    def _show_arrived(self) -> None:
        with suppress(Empty):
            while True:
                self._show(self._texts.get_nowait())
                self._num_texts += 1

    def _show(self, text: str) -> None:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip():
                log.info("%s", CLOCK.sub("", line.rstrip("\r")))
