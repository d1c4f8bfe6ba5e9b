"""What the person sees while it runs, on stderr: bars on a terminal, plain lines elsewhere."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

OnImages = Callable[[int, int], None]  # hears how many images are done, and of how many

console = Console(stderr=True)
log = logging.getLogger("pipeline")


def set_up_logging() -> None:
    """Send the pipeline's log lines to stderr, above any bars."""
    handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S", markup=False)
    if not console.is_terminal:
        handler = logging.StreamHandler()  # type: ignore[assignment]
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def unseen(_done: int, _total: int) -> None:
    """Show nothing."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show how many images pass in a second."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed else "")


@contextmanager
def bar(title: str, *, epochs: int = 0) -> Iterator[OnImages]:
    """Show a bar on a terminal; tell what it gives how many images are done, and of how many (in all the epochs)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            epoch = f", epoch {min(done * epochs // total + 1, epochs)} of {epochs}" if epochs else ""
            progress.update(task, description=title + epoch, completed=done, total=total)

        yield show
