"""One member of the ensemble on one fold: train a model, predict its validation images, predict test images."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.data.image_store import ImageStore
from pipeline.executors.checkpoint_timer import CheckpointTimer
from pipeline.learning.device import Machine
from pipeline.learning.flops import fold_compute, forward_flops, training_flops, training_memory
from pipeline.learning.inputs import InputSpec
from pipeline.learning.linear_head import FrozenFeatures, train_linear_head
from pipeline.learning.predict import TTA, TTAView, for_inference, predict, predict_logits
from pipeline.learning.train import build_model, train_fold
from pipeline.learning.train_state import EpochRecord, TrainState, UnfinishedEpoch
from pipeline.learning.validation import Validation, sample_rows
from pipeline.member_config import MemberConfig
from pipeline.predictions import Predictions, join
from pipeline.progress import Display, ProgressCallback, log, no_progress
from pipeline.results import job_name, refit_name
from pipeline.runs.checkpoint import Checkpoint
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.prediction_files import CorruptedFileError
from pipeline.task import Task

SLICE_SIZE = 20_000  # test images per saved file
FROZEN_FEATURES = FrozenFeatures()  # of this process


@dataclass(frozen=True)
class PredictRequest:
    """Test images (rows of the store) to predict with some TTA views, in a stage of the cascade."""

    rows: NDArray[np.int64]
    views: Sequence[TTAView]
    stage: str
    """Stage of the cascade; names the files of the logits."""


@dataclass(frozen=True)
class FoldJob:
    """A member on a fold (from 0) or refitted, with its seed and folder. Independent of all other jobs."""

    member_name: str
    member: MemberConfig
    task: Task
    fold: int | None
    """None: a refit, on all training images."""
    seed: int
    tta: TTA
    folder: FoldFolder
    num_threads: int = 0
    """Of the training; 0: as many as this process has."""
    refit: int = 0
    """Number of the refit, from 0, if it is one."""

    def __str__(self) -> str:
        if self.fold is None:
            return refit_name(self.member_name, self.refit)
        return job_name(self.member_name, self.fold)

    def num_training_images(self, table: FoldTable) -> int:
        """Return how many images it is trained on."""
        return table.num_training_images(self.fold)

    def training_flops(self, table: FoldTable) -> float:
        """Return the FLOPs of its training."""
        return training_flops(self.member, self.task, self.num_training_images(table))

    def training_memory(self, table: FoldTable) -> int:
        """Return about how many bytes a process takes that trains it."""
        return training_memory(self.member, self.task, self.num_training_images(table))

    def prediction_flops(self, num_images: int, request: PredictRequest) -> float:
        """Return the FLOPs of predicting some images with the views of a request."""
        return num_images * forward_flops(self.member, self.task) * len(request.views)

    def train(
        self, machine: Machine, store: ImageStore, table: FoldTable, display: Display
    ) -> Generator[EpochRecord | Predictions, None, None]:
        """Train (resuming from the last checkpoint), predict the validation images, save.

        Yields each epoch, and at last the out-of-fold predictions of the finished fold. Raises TrainingError before a
        state or predictions that are not finite are saved.
        """
        validation = table.is_validation(self.fold)
        epochs, state, timer = self.member.num_epochs, self._load_state(), CheckpointTimer()
        fraction = state.num_epochs / epochs
        with (
            display.bar(str(self), epochs=epochs, flops=self.training_flops(table), initial_fraction=fraction) as bar,
            closing(self._states(machine, store, table, state, timer, bar)) as states,
        ):
            for state in states:
                if state.unfinished_epoch is not None or timer.is_worthwhile():
                    with timer.saving():
                        self.folder.save_checkpoint(_checkpoint(state))
                if state.unfinished_epoch is not None:
                    continue
                last = state.history[-1]
                bar.set_postfix(last.summary())
                yield last
        model, spec = build_model(self.member, self.task, machine.device, state.weights())
        predictions = self._predict_validation(
            machine, model, spec, store.ids[validation], store.images[validation], display
        )
        self.folder.save_compute(fold_compute(self.member, self.task, self.num_training_images(table), self.tta))
        self.folder.finish(state.rows(), state.weights(), predictions)
        self.log_accuracy(predictions, table)
        yield predictions

    def train_to_end(
        self,
        machine: Machine,
        store: ImageStore,
        table: FoldTable,
        display: Display,
        on_epoch: Callable[[EpochRecord], None],
    ) -> Predictions:
        """Train as `train` does; call `on_epoch` with each epoch, and return the out-of-fold predictions."""
        with closing(self.train(machine, store, table, display)) as results:
            for result in results:
                if isinstance(result, Predictions):
                    return result
                on_epoch(result)
        raise AssertionError("train ends with predictions")

    def _states(
        self,
        machine: Machine,
        store: ImageStore,
        table: FoldTable,
        state: TrainState,
        timer: CheckpointTimer,
        on_progress: ProgressCallback,
    ) -> Generator[TrainState, None, None]:
        """Train from a state on; yield the following states."""
        is_training = ~table.is_validation(self.fold)
        labels = table.labels[is_training]
        if self.member.head == "linear":
            features = FROZEN_FEATURES.get(
                self.member, self.task, store.images, store.checksum, machine, on_progress=on_progress
            )
            return train_linear_head(self.member, self.task, features[:, is_training], labels, resume=state)
        return train_fold(
            self.member,
            self.task,
            store.images[is_training],
            labels,
            seed=self.seed,
            machine=machine,
            resume=state,
            validate=self._validation(machine, store, table),
            is_save_due=timer.is_due,
            on_progress=on_progress,
        )

    def _validation(self, machine: Machine, store: ImageStore, table: FoldTable) -> Validation | None:
        """Return what evaluates the epochs of a fold; None without, as in a refit, which has no validation images."""
        rows = np.flatnonzero(table.is_validation(self.fold))
        if not len(rows) or not self.member.train.validate_every:
            return None
        rows = rows[sample_rows(len(rows), self.seed)]
        return Validation(self.member, self.task, store.images[rows], table.labels[rows], machine)

    def log_epoch(self, record: EpochRecord, display: Display, node: str = "") -> None:
        """Log an epoch with the time left."""
        epochs = self.member.num_epochs
        left = timedelta(seconds=round((epochs - record.epoch) * record.seconds))
        accuracy = record.validation_accuracy
        validation = "" if accuracy is None else f", validation accuracy {accuracy:.4f}"
        log.info(
            "%s%s: epoch %d/%d, loss %.4f, training accuracy %.4f%s, %.0f images/s, time left %s (model), %s (total)",
            *(self, node and f" on {node}", record.epoch, epochs, record.loss, record.accuracy, validation),
            *(record.images_per_second, left, display.eta()),
        )

    def log_accuracy(self, predictions: Predictions, table: FoldTable) -> None:
        """Log the validation accuracy of a finished fold, or that a refit is finished."""
        if self.fold is None:
            log.info("%s: trained on all %s training images", self, f"{len(table.ids):,}")
            return
        accuracy = (predictions.labels == table.labels_for(predictions.ids)).mean()
        log.info("%s: validation accuracy %.4f", self, accuracy)

    def load_slices(
        self, store: ImageStore, request: PredictRequest
    ) -> tuple[dict[int, Predictions], dict[int, NDArray[np.int64]]]:
        """Return the saved predictions of a request by the index of their slice, and the rows of missing slices."""
        saved: dict[int, Predictions] = {}
        missing: dict[int, NDArray[np.int64]] = {}
        for index, start in enumerate(range(0, len(request.rows), SLICE_SIZE)):
            rows = request.rows[start : start + SLICE_SIZE]
            predictions = self.folder.load_test_slice(request.stage, index, store.ids[rows])
            if predictions is None:
                missing[index] = rows
            else:
                saved[index] = predictions
        return saved, missing

    def load_for_inference(self, machine: Machine) -> tuple[nn.Module, InputSpec]:
        """Return the trained model, ready for inference, and its InputSpec."""
        model, spec = build_model(self.member, self.task, machine.device, self.folder.weights())
        return for_inference(model, machine), spec

    def predict_test(
        self, machine: Machine, store: ImageStore, request: PredictRequest, display: Display
    ) -> Predictions:
        """Return the logits of a request, saved slice by slice; slices that are saved already are only loaded."""
        slices, missing = self.load_slices(store, request)
        if missing:
            slices |= self._predict_slices(machine, store, request, missing, display)
        return join(list(slices.values()))

    def _predict_slices(
        self,
        machine: Machine,
        store: ImageStore,
        request: PredictRequest,
        missing: dict[int, NDArray[np.int64]],
        display: Display,
    ) -> dict[int, Predictions]:
        start, (model, spec) = time.perf_counter(), self.load_for_inference(machine)
        total, done, slices = sum(map(len, missing.values())), 0, {}
        title = f"{self}: test images, {len(request.views)} views"
        with display.bar(title, flops=self.prediction_flops(total, request)) as bar:
            for index, rows in missing.items():
                slices[index] = predict_slice(
                    model, spec, store, rows, request.views, machine, _offset(bar, done, total)
                )
                self.folder.save_test_slice(request.stage, index, slices[index])
                done += len(rows)
        speed = total / (time.perf_counter() - start)
        log.info("%s: predicted %s test images, %d views, %.0f images/s", self, f"{total:,}", len(request.views), speed)
        return slices

    def _load_state(self) -> TrainState:
        try:
            checkpoint = self.folder.load_checkpoint()
        except CorruptedFileError as error:
            log.warning("%s; %s restarts from scratch", error.reason, self)
            checkpoint = None
        if checkpoint is None:
            return TrainState()
        unfinished = checkpoint.unfinished_epoch
        state = TrainState(
            [EpochRecord.from_row(row) for row in checkpoint.history],
            dict(checkpoint.tensors),
            None if unfinished is None else UnfinishedEpoch(**unfinished),
        )
        log.info("%s: resumed %s", self, state.position)
        return state

    def _predict_validation(
        self,
        machine: Machine,
        model: nn.Module,
        spec: InputSpec,
        ids: NDArray[np.int64],
        images: NDArray[np.uint8],
        display: Display,
    ) -> Predictions:
        if not len(ids):
            return Predictions(ids, np.zeros((0, self.task.num_classes), np.float32))
        start = time.perf_counter()
        with display.bar(f"{self}: validation images") as bar:
            logits = predict(model, spec, images, self.tta, machine, on_progress=bar)
        speed = len(ids) / (time.perf_counter() - start)
        log.info("%s: predicted %s validation images, %.0f images/s", self, f"{len(ids):,}", speed)
        return Predictions(ids, logits)


def _checkpoint(state: TrainState) -> Checkpoint:
    unfinished = state.unfinished_epoch
    return Checkpoint(state.rows(), state.tensors, None if unfinished is None else asdict(unfinished))


def predict_slice(
    model: nn.Module,
    spec: InputSpec,
    store: ImageStore,
    rows: NDArray[np.int64],
    views: Sequence[TTAView],
    machine: Machine,
    on_progress: ProgressCallback = no_progress,
) -> Predictions:
    """Return a model's predictions of some rows of a store with some TTA views."""
    logits = predict_logits(model, spec, store.images[rows], views, machine, on_progress=on_progress)
    return Predictions(store.ids[rows], logits)


def _offset(on_progress: ProgressCallback, before: int, total: int) -> ProgressCallback:
    """Return a callback that reports the progress of a slice as progress of the whole request."""
    return lambda done, _total: on_progress(before + done, total)
