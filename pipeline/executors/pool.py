"""Fold jobs side by side on this machine, each in a process: one on each GPU, or several on the cores of a CPU."""

from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.config import MachineConfig
from pipeline.data.image_store import ImageStore
from pipeline.executors.arrangement import Slots
from pipeline.executors.executor import NO_OBSERVER, TrainingObserver
from pipeline.executors.fold_job import FROZEN_FEATURES, FoldJob, PredictRequest, predict_slice
from pipeline.executors.local import LocalExecutor
from pipeline.executors.remote_progress import ForwardedDisplay, ReceivedBars, throttled
from pipeline.executors.slices import SlicedRequests
from pipeline.executors.worker_start import worker_context
from pipeline.executors.workers import Send, Workers, WorkerTask
from pipeline.learning.device import Machine, release_freed_memory, set_up_machine
from pipeline.learning.inputs import InputSpec
from pipeline.predictions import Predictions
from pipeline.progress import Display, log, no_progress
from pipeline.runs.fold_table import FoldTable


class PoolExecutor:
    """One process for each slot; each writes into the folders of its own jobs."""

    def __init__(self, slots: Slots, config: MachineConfig, machine: Machine, prediction_threads: int) -> None:
        self._slots, self._config, self._machine = slots, config, machine
        self._prediction_threads = prediction_threads

    def __enter__(self) -> "PoolExecutor":
        """Prepare the processes, which start with their first task and stay alive until the end of the block."""
        release_freed_memory()  # for them; this process computes little until the end of the block
        arguments = [(self._config, device) for device in self._slots.devices]
        self._workers = Workers(worker_context(self._machine.device.type), _set_up, arguments, self._slots.max_threads)
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self._workers.terminate()

    @property
    def num_slots(self) -> int:
        """The number of processes."""
        return len(self._slots.devices)

    def stop(self) -> None:
        """End the processes."""
        self._workers.terminate()

    def train(
        self,
        jobs: Sequence[FoldJob],
        store: ImageStore,
        table: FoldTable,
        display: Display,
        observer: TrainingObserver = NO_OBSERVER,
    ) -> list[Predictions]:
        """Train folds side by side; members with a linear head, whose folds share their features, in this process."""
        results: dict[str, Predictions] = {}
        for job in jobs:
            if job.member.head == "linear":
                (results[str(job)],) = LocalExecutor(self._machine).train([job], store, table, display, observer)
        FROZEN_FEATURES.release()
        others = [job for job in jobs if str(job) not in results]
        tasks = [WorkerTask(_train, str(job), (job, store, table), job.num_threads) for job in others]
        with closing(ReceivedBars(display)) as bars:

            def on_message(index: int, kind: str, *values: Any) -> None:
                if kind == "epoch":
                    record, where = values
                    others[index].log_epoch(record, display, where)
                    observer.on_epoch(others[index], record)
                else:
                    bars.receive(index, kind, *values)

            for index, predictions in self._workers.run(tasks, on_message):
                results[str(others[index])] = predictions
                observer.on_trained(others[index], predictions)
        return [results[str(job)] for job in jobs]

    def predict(
        self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, display: Display
    ) -> Generator[Predictions, None, None]:
        """Predict slices side by side; complete requests are only loaded."""
        slices, num_threads = SlicedRequests(requests, store), self._prediction_threads
        tasks = [
            WorkerTask(_predict, str(each.job), (each.job, store, each.request, each.index, num_threads), num_threads)
            for each in slices.missing
        ]
        done = [0] * len(tasks)
        title = f"test images, {len(self._slots.devices)} slices side by side"
        with display.bar(title, flops=slices.flops) if tasks else nullcontext(no_progress) as bar:

            def on_message(index: int, _kind: str, num_images: int) -> None:
                done[index] = num_images
                bar(sum(done), slices.num_images)

            for index, predictions in self._workers.run(tasks, on_message):
                missing = slices.missing[index]
                on_message(index, "predicted", missing.num_images)
                if slices.add(missing, predictions):
                    job, request = requests[missing.request_index]
                    num_rows, num_views = len(request.rows), len(request.views)
                    log.info("%s: predicted %s test images, %d views", job, f"{num_rows:,}", num_views)
                yield from slices.joined()
        yield from slices.joined()


class _WorkerState:
    """What a worker process keeps from task to task."""

    machine: Machine
    send: Send
    model: tuple[Path, nn.Module, InputSpec] | None = None
    """The last model that predicted, by the folder of its fold."""


def _set_up(argument: tuple[MachineConfig, str], send: Send) -> None:
    config, name = argument
    machine, device = set_up_machine(config), torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _WorkerState.machine, _WorkerState.send = replace(machine, device=device), send


def _train(job: FoldJob, store: ImageStore, table: FoldTable) -> Predictions:
    machine, send = _WorkerState.machine, _WorkerState.send
    where = str(machine.device) if machine.device.type == "cuda" else ""
    torch.set_num_threads(job.num_threads)
    return job.train_to_end(machine, store, table, ForwardedDisplay(send), lambda record: send("epoch", record, where))


def _predict(job: FoldJob, store: ImageStore, request: PredictRequest, index: int, num_threads: int) -> Predictions:
    """Predict a slice, the rows of the request, and save it."""
    machine, send = _WorkerState.machine, _WorkerState.send
    torch.set_num_threads(num_threads)
    if _WorkerState.model is None or _WorkerState.model[0] != job.folder.path:
        _WorkerState.model = None  # released before the next one is loaded
        _WorkerState.model = job.folder.path, *job.load_for_inference(machine)
    _, model, spec = _WorkerState.model
    on_progress = throttled(lambda done, _total: send("predicted", done))
    predictions = predict_slice(model, spec, store, request.rows, request.views, machine, on_progress)
    job.folder.save_test_slice(request.stage, index, predictions)
    return predictions
