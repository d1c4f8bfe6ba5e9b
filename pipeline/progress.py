"""Progress bars and logging, on stderr: live bars on a terminal, plain lines elsewhere."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

ProgressCallback = Callable[[int, int], None]  # called with (done, total), in images

LOG_INTERVAL = 120.0  # seconds between two lines of a bar that is not shown
WIDE = 110  # characters: a narrower terminal has no room for bars and speeds
# In a notebook `!python run.py` has a terminal, but one that shows every redrawn line of a live view.
NOTEBOOK_VARIABLES = ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG", "JPY_PARENT_PID")
console = Console(stderr=True, force_terminal=False if any(map(os.environ.get, NOTEBOOK_VARIABLES)) else None)
log = logging.getLogger("pipeline")


def set_up_logging(*, quiet: bool = False) -> None:
    """Log to stderr, above the progress bars; quiet: no bars, and only warnings."""
    console.quiet = quiet
    handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S", markup=False)
    if quiet or not console.is_terminal:
        handler = logging.StreamHandler()  # type: ignore[assignment]
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


def no_progress(_done: int, _total: int) -> None:
    """A ProgressCallback that does nothing."""


class DisplayedBar(Protocol):
    """A bar that is shown."""

    def __call__(self, done: int, total: int, /) -> None:
        """Advance the bar to `done` of `total` images."""
        ...

    def set_postfix(self, text: str) -> None:
        """Set the text after the title."""
        ...


class Display(Protocol):
    """What shows the progress of jobs: of this process, or of the one that started it."""

    def bar(
        self, title: str, *, epochs: int = 0, flops: float = 0.0, initial_fraction: float = 0.0
    ) -> AbstractContextManager[DisplayedBar]:
        """Show a bar while the block runs."""
        ...

    def eta(self) -> timedelta | None:
        """Return the time to the end of the whole job, if it is known."""
        ...


class Bar:
    """One progress bar: call it with (done, total) in images; total counts all epochs."""

    def __init__(
        self, display: "ProgressDisplay", task: TaskID, title: str, epochs: int, flops: float, fraction: float
    ) -> None:
        self._display, self._task, self._title, self._epochs, self._flops = display, task, title, epochs, flops
        self._postfix, self._log_time = "", time.monotonic()
        self.fraction = fraction  # of this bar's FLOPs that is done

    def __call__(self, done: int, total: int) -> None:
        """Advance the bar to `done` of `total` images."""
        text = self._title
        if self._epochs:
            text += f", epoch {min(done * self._epochs // total + 1, self._epochs)}/{self._epochs}"
        more_flops = self._flops * (done / total - self.fraction)
        self._display.update(self._task, text + self._postfix, done, total, more_flops)
        self.fraction = done / total
        if self._display.is_hidden and time.monotonic() - self._log_time >= LOG_INTERVAL:
            self._log_time = time.monotonic()
            eta = self._display.eta()
            log.info("%s: %d %% done%s", text, 100 * self.fraction, "" if eta is None else f", time left {eta} (total)")

    def set_postfix(self, text: str) -> None:
        """Set the text after the title, for example the loss of the last epoch; shown from the next call on."""
        self._postfix = f", {text}"


class ProgressDisplay:
    """The bars of what runs now, and the overall progress of the job.

    Overall progress is measured in FLOPs: `total_flops` is the sum over all bars; 0 shows no overall bar and no ETA.
    """

    def __init__(self, progress: Progress, total_flops: float) -> None:
        self._progress, self._total_flops = progress, total_flops
        self._overall = progress.add_task("overall", total=total_flops, counts_images=False) if total_flops else None
        self._done, self._done_before, self._start_time = 0.0, 0.0, time.monotonic()

    @contextmanager
    def bar(self, title: str, *, epochs: int = 0, flops: float = 0.0, initial_fraction: float = 0.0) -> Iterator[Bar]:
        """Show a bar while the block runs.

        `initial_fraction` is the fraction of `flops` from an interrupted call: overall progress includes it, the ETA's
        speed does not.
        """
        self._done_before += flops * initial_fraction
        self._done += flops * initial_fraction
        task = self._progress.add_task(title, total=None, counts_images=True)
        bar = Bar(self, task, title, epochs, flops, initial_fraction)
        try:
            yield bar
        finally:
            self._progress.refresh()
            self._progress.remove_task(task)
            self._add_flops(flops * (1 - bar.fraction))

    def update(self, task: TaskID, text: str, done: int, total: int, more_flops: float) -> None:
        """Update one bar, and overall progress by the FLOPs since its last update."""
        self._progress.update(task, description=text, completed=done, total=total)
        self._add_flops(more_flops)

    @property
    def is_hidden(self) -> bool:
        """Whether the bars are not shown: without a terminal."""
        return self._progress.disable

    def eta(self) -> timedelta | None:
        """Return the time to the end of the whole job at the average speed so far; None before any progress."""
        done_here = self._done - self._done_before
        if not self._total_flops or done_here <= 0:
            return None
        left = (self._total_flops - self._done) * (time.monotonic() - self._start_time) / done_here
        return timedelta(seconds=max(0, round(left)))

    def _add_flops(self, flops: float) -> None:
        self._done += flops
        if self._overall is not None:
            self._progress.update(self._overall, completed=self._done)


@contextmanager
def progress_display(total_flops: float = 0.0) -> Iterator[ProgressDisplay]:
    """Show a job's progress while the block runs; without a terminal, long bars are logged instead."""
    is_wide = console.width >= WIDE
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        *((BarColumn(bar_width=24),) if is_wide else ()),
        TaskProgressColumn(),
        *((_SpeedColumn(),) if is_wide else ()),
        TimeRemainingColumn(),
    )
    hidden = console.quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield ProgressDisplay(progress, total_flops)


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the speed in images per second."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed and task.fields["counts_images"] else "")
