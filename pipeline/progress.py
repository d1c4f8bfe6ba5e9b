"""What the person sees while it runs, on stderr: a live view on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

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
from rich.text import Text

ProgressCallback = Callable[[int, int], None]  # hears how many images are done, and of how many

console = Console(stderr=True)
log = logging.getLogger("pipeline")


def set_up_logging(*, quiet: bool = False) -> None:
    """Send the pipeline's log lines to stderr, above any bars; quiet: neither lines nor bars, only warnings."""
    console.quiet = quiet
    handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S", markup=False)
    if quiet or not console.is_terminal:
        handler = logging.StreamHandler()  # type: ignore[assignment]
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


class Bar:
    """One part of a job in the view: call it with how many images are done, and of how many (in all the epochs)."""

    def __init__(self, view: "ProgressDisplay", task: TaskID, title: str, epochs: int, work: float, share: float) -> None:
        self._view, self._task, self._title, self._epochs, self._work = view, task, title, epochs, work
        self._said = ""
        self.share = share

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        text = self._title
        if self._epochs:
            text += f", epoch {min(done * self._epochs // total + 1, self._epochs)} of {self._epochs}"
        self._view.show(self._task, text + self._said, done, total, self._work * (done / total - self.share))
        self.share = done / total

    def say(self, text: str) -> None:
        """Put a text behind the title, for example the loss of the last epoch."""
        self._said = f", {text}"


class ProgressDisplay:
    """What runs now, and how far the whole job is. `work` is the sum of all parts' work, in any unit."""

    def __init__(self, progress: Progress, work: float) -> None:
        self._progress, self._work = progress, work
        self._whole = progress.add_task("whole job", total=work, counts_images=False) if work else None
        self._done, self._began, self._done_before = 0.0, time.monotonic(), 0.0

    @contextmanager
    def bar(self, title: str, *, epochs: int = 0, work: float = 0.0, share_before: float = 0.0) -> Iterator[Bar]:
        """Show a part of the job, of which a share was done in an earlier call."""
        self._done_before += work * share_before
        self._done += work * share_before
        task = self._progress.add_task(title, total=None, counts_images=True)
        bar = Bar(self, task, title, epochs, work, share_before)
        try:
            yield bar
        finally:
            self._progress.refresh()
            self._progress.remove_task(task)
            self._add_work(work * (1 - bar.share))

    def show(self, task: TaskID, text: str, done: int, total: int, more_work: float) -> None:
        """Update a part that runs, and the whole job by the work that was done since the last time."""
        self._progress.update(task, description=text, completed=done, total=total)
        self._add_work(more_work)

    def time_left(self) -> timedelta | None:
        """Return how long the whole job will still take, judged by its speed so far; None if it can't be said yet."""
        done_here = self._done - self._done_before
        if not self._work or done_here <= 0:
            return None
        left = (self._work - self._done) * (time.monotonic() - self._began) / done_here
        return timedelta(seconds=max(0, round(left)))

    def _add_work(self, work: float) -> None:
        self._done += work
        if self._whole is not None:
            self._progress.update(self._whole, completed=self._done)


@contextmanager
def progress_display(work: float = 0.0) -> Iterator[ProgressDisplay]:
    """Give a view of a job; on anything but a terminal it shows nothing and only knows the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    hidden = console.quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield ProgressDisplay(progress, work)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show how many images pass in a second."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed and task.fields["counts_images"] else "")
