"""Progress of jobs in other processes: bars that are forwarded to this one, and epochs that a cluster reports."""

import itertools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from pipeline.executors.fold_job import FoldJob
from pipeline.executors.workers import Send
from pipeline.learning.train_state import EpochRecord
from pipeline.progress import Display, DisplayedBar, ProgressCallback
from pipeline.runs.fold_table import FoldTable

UPDATE_INTERVAL = 0.2  # seconds between two updates of a forwarded bar


class ForwardedDisplay:
    """The display of a worker process: sends what its bars show to the process that started it."""

    def __init__(self, send: Send) -> None:
        self._send, self._numbers = send, itertools.count()

    @contextmanager
    def bar(
        self, title: str, *, epochs: int = 0, flops: float = 0.0, initial_fraction: float = 0.0
    ) -> Iterator["_ForwardedBar"]:
        """Show a bar in the other process while the block runs."""
        number = next(self._numbers)
        self._send("open", number, (title, epochs, flops, initial_fraction))
        try:
            yield _ForwardedBar(self._send, number)
        finally:
            self._send("close", number, ())

    def eta(self) -> None:
        """Return None: only the other process knows the whole job."""


def throttled(on_progress: ProgressCallback) -> ProgressCallback:
    """Return a callback that leaves out most calls, but not that of the end."""
    last = 0.0

    def call(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= UPDATE_INTERVAL:
            last = now
            on_progress(done, total)

    return call


class _ForwardedBar:
    def __init__(self, send: Send, number: int) -> None:
        self._send, self._number = send, number
        self._update = throttled(lambda done, total: send("update", number, (done, total)))

    def __call__(self, done: int, total: int) -> None:
        self._update(done, total)

    def set_postfix(self, text: str) -> None:
        self._send("postfix", self._number, (text,))


class ReceivedBars:
    """The bars of worker processes, by the number of their task and of the bar in it."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._open: dict[tuple[int, int], tuple[AbstractContextManager[DisplayedBar], DisplayedBar]] = {}

    def receive(self, task: int, action: str, number: int, values: tuple[Any, ...]) -> None:
        """Do what a ForwardedDisplay has sent."""
        key = task, number
        if action == "open":
            title, epochs, flops, fraction = values
            context = self._display.bar(title, epochs=epochs, flops=flops, initial_fraction=fraction)
            self._open[key] = context, context.__enter__()
            return
        context, bar = self._open[key]
        if action == "update":
            bar(*values)
        elif action == "postfix":
            bar.set_postfix(*values)
        else:
            del self._open[key]
            context.__exit__(None, None, None)

    def close(self) -> None:
        """Close the bars of tasks that did not end."""
        for context, _ in self._open.values():
            context.__exit__(None, None, None)
        self._open.clear()


class RemoteProgress:
    """A bar for each fold on a cluster, from its first reported epoch."""

    def __init__(self, display: Display, table: FoldTable, bars: ExitStack) -> None:
        self._display, self._table, self._stack = display, table, bars
        self._bars: dict[str, DisplayedBar] = {}

    def report_epoch(self, job: FoldJob, record: EpochRecord, node: str) -> None:
        """Show and log an epoch that finished on a node."""
        epochs, flops = job.member.num_epochs, job.training_flops(self._table)
        if str(job) not in self._bars:
            self._bars[str(job)] = self._stack.enter_context(
                self._display.bar(
                    f"{job} on {node}", epochs=epochs, flops=flops, initial_fraction=(record.epoch - 1) / epochs
                )
            )
        bar = self._bars[str(job)]
        speed = f"{record.images_per_second:,.0f} images/s"
        bar.set_postfix(f"{record.summary()}, {speed}")
        num_images = job.num_training_images(self._table)
        bar(record.epoch * num_images, epochs * num_images)
        job.log_epoch(record, self._display, node)


@contextmanager
def remote_progress(display: Display, table: FoldTable) -> Iterator[RemoteProgress]:
    """Show remote folds until the end of the block."""
    with ExitStack() as bars:
        yield RemoteProgress(display, table, bars)
