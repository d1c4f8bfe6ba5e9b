"""Where the trials of a search train: a slot for each that may run at the same time."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

from pipeline.config import MachineConfig
from pipeline.executors.arrangement import Slots
from pipeline.executors.executor import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.executors.pool import PoolExecutor
from pipeline.learning.device import Machine

POLL_SECONDS = 0.5  # Windows sees Ctrl-C only between two waits
END_SECONDS = 10.0  # for a thread whose process was ended
Opener = Callable[[], AbstractContextManager[Executor]]


class TrialSlot:
    """An executor for one trial at a time, which may be ended and opened again."""

    def __init__(self, opener: Opener, num_threads: int) -> None:
        self.num_threads = num_threads
        """Of a training; 0: as many as the process has."""
        self._opener, self._stack = opener, ExitStack()
        self._executor: Executor | None = None

    def executor(self) -> Executor:
        """Return the executor, opened if it is not."""
        if self._executor is None:
            self._executor = self._stack.enter_context(self._opener())
        return self._executor

    def stop(self) -> None:
        """End what the executor trains, from another thread."""
        executor = self._executor
        if executor is not None:
            executor.stop()

    def close(self) -> None:
        """Close the executor, which ends its processes."""
        self._executor = None
        self._stack.close()


def local_slots(slots: Slots, config: MachineConfig, machine: Machine) -> list[TrialSlot]:
    """Return the slots of this machine: this process if there is only one, else a process for each."""
    if len(slots.devices) == 1:
        return [TrialSlot(lambda: nullcontext(LocalExecutor(machine)), 0)]
    own = [replace(slots, devices=(device,)) for device in slots.devices]
    num_threads = max(1, slots.num_cores // len(own)) if config.threads_per_job == "auto" else config.threads_per_job
    return [TrialSlot(_pool_opener(each, config, machine), num_threads) for each in own]


def shared_slots(executor: Executor) -> list[TrialSlot]:
    """Return as many slots as an open executor has, all on it."""
    return [TrialSlot(lambda: nullcontext(executor), 0) for _ in range(max(1, executor.num_slots))]


def run_in_slots(slots: Sequence[TrialSlot], work: Callable[[TrialSlot], None], stop: threading.Event) -> None:
    """Call `work` with each slot, side by side in threads; with a single slot in this thread.

    The first error, or Ctrl-C, stops the executors of all slots and is raised. `stop` is set then: what the other
    threads raise has no meaning.
    """
    if len(slots) == 1:
        try:
            work(slots[0])
        finally:
            slots[0].close()
        return
    errors = list[BaseException]()

    def call(slot: TrialSlot) -> None:
        try:
            work(slot)
        except BaseException as error:
            errors.append(error)
            stop.set()

    # Daemons: a thread that waits for a cluster does not delay the end of this process.
    threads = [threading.Thread(target=call, args=(slot,), daemon=True) for slot in slots]
    try:
        for thread in threads:
            thread.start()
        while not stop.is_set() and any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(POLL_SECONDS / len(threads))
    finally:
        is_stopped = stop.is_set() or any(thread.is_alive() for thread in threads)
        if is_stopped:
            stop.set()
            for slot in slots:
                slot.stop()
        for thread in threads:
            thread.join(END_SECONDS if is_stopped else None)
        for slot in slots:
            slot.close()
    if errors:
        raise errors[0]


def _pool_opener(slots: Slots, config: MachineConfig, machine: Machine) -> Opener:
    return lambda: PoolExecutor(slots, config, machine, 0)
