"""When an unfinished fold is saved: often enough to lose little, and not so often that it takes the time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

MAX_SECONDS = 300.0  # of training that an interruption may lose
SHORT = 1.0  # second; what takes no longer is saved after every epoch
MIN_RATIO = 50.0  # of the time between two checkpoints to the time that a longer one takes


class CheckpointTimer:
    """The time since the last checkpoint, and how long it took."""

    def __init__(self) -> None:
        self._saved_at, self._duration = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether to save now, in the middle of an epoch."""
        return self._elapsed() >= max(MAX_SECONDS, MIN_RATIO * self._duration)

    def is_worthwhile(self) -> bool:
        """Whether to save after an epoch; where writing is slow, only after some epochs."""
        return self._duration <= SHORT or self._elapsed() >= MIN_RATIO * self._duration

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure the block, which saves."""
        start = time.monotonic()
        yield
        self._saved_at = time.monotonic()
        self._duration = self._saved_at - start

    def _elapsed(self) -> float:
        return time.monotonic() - self._saved_at
