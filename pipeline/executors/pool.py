"""Jobs on several GPUs of this machine: a process for each, and each job to the first that is free."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import joblib
import torch

from pipeline.data.image_cache import ImageStore
from pipeline.config import MachineConfig
from pipeline.errors import RunError, UserError
from pipeline.executors.remote_progress import remote_progress
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.train import EpochRecord
from pipeline.progress import ProgressDisplay, progress_display, log
from pipeline.runs.run_folder import FoldTable

POLL_INTERVAL = 0.2  # seconds between two looks at what the processes say


def device_names(machine: Machine) -> tuple[str, ...]:
    """Return the names of the devices that a machine's jobs can be spread over."""
    if machine.device.type != "cuda" or machine.device.index is not None:
        return (str(machine.device),)
    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))


class PoolExecutor:
    """A process for each device; every process writes into the folders of its own jobs."""

    def __init__(self, devices: Sequence[str], config: MachineConfig) -> None:
        num_threads = config.num_threads or max(1, joblib.cpu_count() // len(devices))
        self._devices, self._config = devices, config.model_copy(update={"num_threads": num_threads})

    def __enter__(self) -> "PoolExecutor":
        """Start the processes; they stay warm for all that follows."""
        context = multiprocessing.get_context("spawn")
        free, said = context.SimpleQueue(), context.SimpleQueue()
        for device in self._devices:
            free.put(device)
        self._said = said
        self._pool = ProcessPoolExecutor(len(self._devices), context, _init_worker, (free, said, self._config))
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        self._pool.shutdown()

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: ProgressDisplay) -> None:
        """Train as many folds at a time as there are devices."""
        with remote_progress(view, table) as shown:

            def said(number: int, device: str, record: EpochRecord) -> None:
                shown.epoch(jobs[number], record, device)

            tasks = [(_train, number, job, store, table) for number, job in enumerate(jobs)]
            for number in self.run(tasks, said):
                shown.finished(jobs[number])

    def predict(self, jobs: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, view: ProgressDisplay) -> None:
        """ModelPass as many nets at a time as there are devices."""
        missing = [sum(map(len, job.missing_slices(store, asked.rows, asked.name).values())) for job, asked in jobs]
        tasks = [(_predict, n, job, store, asked) for n, (job, asked) in enumerate(jobs) if missing[n]]
        if not tasks:
            return
        done, total = 0, sum(missing)
        work = sum(job.prediction_flops(n, asked) for n, (job, asked) in zip(missing, jobs, strict=True))
        with view.bar(f"test images on {len(self._devices)} devices", work=work) as bar:
            for number in self.run(tasks, lambda *_: None):
                done += missing[number]
                bar(done, total)
                log.info("%s: %s of %s test images predicted", jobs[number][0], f"{done:,}", f"{total:,}")

    def run(self, tasks: Sequence[tuple[Any, ...]], hear: Callable[..., None]) -> Iterator[int]:
        """Yield the numbers of tasks (function, number, job, ...) as they end; `hear` gets what they say meanwhile.

        Raises a task's error with the name of its job, and RunError if a process was killed.
        """
        running = {self._pool.submit(task[0], *task[1:]): task for task in tasks}
        while running:
            ended, _ = wait(running, timeout=POLL_INTERVAL, return_when=FIRST_COMPLETED)
            # A task says all it has to say before it ends.
            while not self._said.empty():
                hear(*self._said.get())
            for future in ended:
                _, number, job, *_ = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool:
                    raise RunError(
                        "a process that trains or predicts was killed, most often because the memory ran out; what was "
                        "finished is saved, the same command goes on from there"
                    ) from None
                except UserError as error:
                    raise type(error)(f"{job}: {error}") from None
                yield number


class _WorkerState:
    """What a process of the pool knows from its start on."""

    machine: Machine
    said: Any


def _init_worker(free: Any, said: Any, config: MachineConfig) -> None:
    """Take the next device, leave Ctrl-C to the process that was started by hand, and do not outlive that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    machine, device = set_up_machine(config), torch.device(free.get())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _WorkerState.machine, _WorkerState.said = replace(machine, device=device), said


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(number: int, job: FoldJob, store: ImageStore, table: FoldTable) -> None:
    with progress_display() as view:
        for record in job.train(_WorkerState.machine, store, table, view):
            _WorkerState.said.put((number, str(_WorkerState.machine.device), record))


def _predict(_number: int, job: FoldJob, store: ImageStore, asked: PredictRequest) -> None:
    with progress_display() as view:
        job.predict_test(_WorkerState.machine, store, asked, view)
