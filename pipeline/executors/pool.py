"""Fold jobs on several GPUs of this machine: one process per device, each job on the first free one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch

from pipeline.config import MachineConfig
from pipeline.cores import available_cores
from pipeline.data.image_store import ImageStore
from pipeline.errors import RunError, UserError
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.executors.remote_progress import remote_progress
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.train_state import EpochRecord
from pipeline.predictions import Predictions, join
from pipeline.progress import ProgressCallback, ProgressDisplay, log, no_progress, progress_display
from pipeline.runs.fold_table import FoldTable

POLL_INTERVAL = 0.2  # seconds between two reads of the progress queue


def device_names(machine: Machine) -> tuple[str, ...]:
    """Return the devices that a machine's jobs can be distributed over."""
    if machine.device.type != "cuda" or machine.device.index is not None:
        return (str(machine.device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


class PoolExecutor:
    """One process per device; each process writes into the folders of its own jobs."""

    def __init__(self, devices: Sequence[str], config: MachineConfig) -> None:
        num_threads = config.num_threads or max(1, available_cores() // len(devices))
        self._devices, self._config = devices, config.model_copy(update={"num_threads": num_threads})

    def __enter__(self) -> "PoolExecutor":
        """Start the processes, which stay alive until the end of the block."""
        context = multiprocessing.get_context("spawn")
        devices, self._progress_queue = context.SimpleQueue(), context.SimpleQueue()
        for device in self._devices:
            devices.put(device)
        arguments = (devices, self._progress_queue, self._config)
        self._pool = ProcessPoolExecutor(len(self._devices), context, _init_worker, arguments)
        return self

    def __exit__(self, *_: object) -> None:
        """Terminate the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        self._pool.shutdown()

    def train(
        self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, display: ProgressDisplay
    ) -> list[Predictions]:
        """Train as many folds at a time as there are devices."""
        results: dict[int, Predictions] = {}
        with remote_progress(display, table) as progress:

            def on_message(index: int, device: str, record: EpochRecord) -> None:
                progress.report_epoch(jobs[index], record, device)

            tasks = [(_train, index, job, store, table) for index, job in enumerate(jobs)]
            for index, predictions in self.run(tasks, on_message):
                results[index] = predictions
                jobs[index].log_accuracy(predictions, table)
        return [results[index] for index in range(len(jobs))]

    def predict(
        self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, display: ProgressDisplay
    ) -> Generator[Predictions, None, None]:
        """Predict with as many models at a time as there are devices; complete requests are only loaded."""
        missing = [sum(map(len, job.load_slices(store, request)[1].values())) for job, request in requests]
        tasks = [(_predict, i, job, store, request) for i, (job, request) in enumerate(requests) if missing[i]]
        flops = sum(job.prediction_flops(n, request) for n, (job, request) in zip(missing, requests, strict=True))
        results, next_index, done = dict[int, Predictions](), 0, 0
        with self._display_if(tasks, display, flops) as bar:
            for index, predictions in self.run(tasks, lambda *_: None):
                done += missing[index]
                bar(done, sum(missing))
                log.info("%s: predicted %s of %s test images", requests[index][0], f"{done:,}", f"{sum(missing):,}")
                results[index] = predictions
                while next_index in results or (next_index < len(requests) and not missing[next_index]):
                    yield results.pop(next_index) if next_index in results else _load(store, *requests[next_index])
                    next_index += 1
        for job, request in requests[next_index:]:
            yield _load(store, job, request)

    @contextmanager
    def _display_if(self, tasks: Sequence[Any], display: ProgressDisplay, flops: float) -> Iterator[ProgressCallback]:
        """Show a bar if there is anything to predict."""
        if not tasks:
            yield no_progress
            return
        with display.bar(f"test images on {len(self._devices)} devices", flops=flops) as bar:
            yield bar

    def run(self, tasks: Sequence[tuple[Any, ...]], on_message: Callable[..., None]) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) of tasks (function, index, job, ...) as they finish.

        `on_message` is called with what they put into the progress queue. Raises a task's error with the name of its
        job, and RunError if a process was killed.
        """
        running = {self._pool.submit(task[0], *task[1:]): task for task in tasks}
        while running:
            finished, _ = wait(running, timeout=POLL_INTERVAL, return_when=FIRST_COMPLETED)
            # Drain the queue before handling finished tasks: their messages come first.
            while not self._progress_queue.empty():
                on_message(*self._progress_queue.get())
            for future in finished:
                _, index, job, *_ = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    raise RunError(
                        "a training or prediction process was killed, most often because memory ran out; progress is "
                        "saved, rerun the same command to resume"
                    ) from None
                except UserError as error:
                    raise type(error)(f"{job}: {error}") from None
                yield index, result


class _WorkerState:
    """What a worker process is initialised with."""

    machine: Machine
    progress_queue: Any


def _init_worker(devices: Any, progress_queue: Any, config: MachineConfig) -> None:
    """Take the next device, ignore SIGINT (the parent handles it), and exit with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    machine, device = set_up_machine(config), torch.device(devices.get())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _WorkerState.machine, _WorkerState.progress_queue = replace(machine, device=device), progress_queue


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(index: int, job: FoldJob, store: ImageStore, table: FoldTable) -> Predictions:
    with progress_display() as display, closing(job.train(_WorkerState.machine, store, table, display)) as results:
        for result in results:
            if isinstance(result, Predictions):
                return result
            _WorkerState.progress_queue.put((index, str(_WorkerState.machine.device), result))
    raise AssertionError("FoldJob.train ends with its predictions")


def _load(store: ImageStore, job: FoldJob, request: PredictRequest) -> Predictions:
    """Return the predictions of a request whose slices are all saved."""
    saved, _ = job.load_slices(store, request)
    return join(list(saved.values()))


def _predict(_index: int, job: FoldJob, store: ImageStore, request: PredictRequest) -> Predictions:
    with progress_display() as display:
        return job.predict_test(_WorkerState.machine, store, request, display)
