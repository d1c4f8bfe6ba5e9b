from types import SimpleNamespace

import pytest

from pipeline.executors import checkpoint_timer
from pipeline.executors.checkpoint_timer import CheckpointTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoint_timer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def save(timer, clock, seconds):
    with timer.saving():
        clock.now += seconds


def test_small_checkpoint_is_saved_after_every_epoch_and_within_one_every_five_minutes(clock):
    timer = CheckpointTimer()
    save(timer, clock, 0.5)

    assert timer.is_worthwhile()
    assert not timer.is_due()
    clock.now += 299
    assert not timer.is_due()
    clock.now += 2
    assert timer.is_due()


def test_slow_checkpoint_takes_at_most_a_fiftieth_of_the_time(clock):
    timer = CheckpointTimer()
    save(timer, clock, 10)
    clock.now += 499

    assert not timer.is_worthwhile()
    assert not timer.is_due()
    clock.now += 2
    assert timer.is_worthwhile()
    assert timer.is_due()
