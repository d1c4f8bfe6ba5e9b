"""Slots with executors that train nothing; those of a pool and a cluster are in test_tune.py and tests/cluster."""

import threading
from contextlib import contextmanager

import pytest

from pipeline.errors import RunError
from pipeline.tuning.slots import TrialSlot, run_in_slots


class FakeExecutor:
    """Waits until it is stopped, as an executor whose processes train."""

    def __init__(self):
        self.stopped = threading.Event()

    def stop(self):
        self.stopped.set()

    def train(self):
        assert self.stopped.wait(10)
        raise RunError("its process has ended")


@pytest.fixture
def opened():
    return []


@pytest.fixture
def make_slots(opened):
    @contextmanager
    def opener():
        executor = FakeExecutor()
        opened.append(executor)
        yield executor
        opened.remove(executor)

    return lambda number: [TrialSlot(opener, 1) for _ in range(number)]


def test_single_slot_runs_in_this_thread_and_is_closed(make_slots, opened):
    threads = []

    def work(slot):
        slot.executor()
        threads.append(threading.current_thread())

    run_in_slots(make_slots(1), work, threading.Event())

    assert threads == [threading.current_thread()]
    assert opened == []


def test_slots_run_side_by_side(make_slots, opened):
    barrier = threading.Barrier(3, timeout=10)

    def work(slot):
        slot.executor()
        barrier.wait()

    run_in_slots(make_slots(3), work, threading.Event())

    assert opened == []


def test_first_error_stops_the_other_slots(make_slots, opened):
    slots, stop = make_slots(2), threading.Event()
    started = threading.Barrier(2, timeout=10)

    def work(slot):
        executor = slot.executor()
        started.wait()
        if slot is slots[0]:
            raise RunError("disk full")
        executor.train()

    with pytest.raises(RunError, match=r"^disk full$"):
        run_in_slots(slots, work, stop)
    assert stop.is_set()
    assert opened == []


def test_interrupt_stops_all_slots(make_slots, opened, monkeypatch):
    slots, stop = make_slots(2), threading.Event()
    started = threading.Barrier(3, timeout=10)
    join = threading.Thread.join

    def interrupt(thread, timeout=None):
        if timeout is not None and timeout < 1:
            started.wait()
            raise KeyboardInterrupt
        join(thread, timeout)

    def work(slot):
        executor = slot.executor()
        started.wait()
        executor.train()

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_in_slots(slots, work, stop)
    assert stop.is_set()
    assert opened == []


def test_closed_slot_opens_a_new_executor(make_slots):
    (slot,) = make_slots(1)
    first = slot.executor()

    assert slot.executor() is first
    slot.close()
    assert slot.executor() is not first
    slot.close()
