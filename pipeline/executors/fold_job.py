"""One member on one fold: trained, judged on what it held out, and asked about the test images."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.data.image_cache import ImageStore
from pipeline.config import MemberConfig
from pipeline.learning.device import Machine
from pipeline.learning.flops import pass_flop, training_flop
from pipeline.learning.metrics import score
from pipeline.learning.predict import TTAView, TTA, for_inference, predict, predict_logits
from pipeline.learning.train import EpochRecord, TrainState, build_model, train_fold
from pipeline.predictions import Predictions
from pipeline.progress import ProgressDisplay, ProgressCallback, log, no_progress
from pipeline.runs.trackers import tensorboard_tracker
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import FoldTable
from pipeline.runs.prediction_files import CorruptedFileError

SLICE = 20_000  # test images between two savings


@dataclass(frozen=True)
class PredictRequest:
    """Test images (rows of the store) that a net is asked about, in some views; the answers are kept under a name."""

    rows: NDArray[np.int64]
    views: Sequence[TTAView]
    name: str


@dataclass(frozen=True)
class FoldJob:
    """A member on a fold (from 0), with its seed and its folder. It depends on no other job."""

    name: str
    member: MemberConfig
    fold: int
    seed: int
    views: TTA
    folder: FoldFolder
    tensorboard: bool = False
    """Whether its history is written for TensorBoard too."""

    def __str__(self) -> str:
        return f"{self.name} fold {self.fold}"

    def training_flops(self, table: FoldTable) -> float:
        """Return the operations that its training takes."""
        return training_flop(self.member, int((table.folds != self.fold).sum()))

    def prediction_flops(self, num_images: int, asked: PredictRequest) -> float:
        """Return the operations that so many of the test images take in the views asked for."""
        return num_images * pass_flop(self.member) * len(asked.views)

    def train(self, machine: Machine, store: ImageStore, table: FoldTable, view: ProgressDisplay) -> Iterator[EpochRecord]:
        """Train from the last whole epoch on, judge, and keep weights and out-of-fold predictions.

        Yields after each epoch, when its checkpoint is kept; the fold is finished when nothing more comes.
        """
        inside, outside = table.folds != self.fold, table.folds == self.fold
        epochs, state = self.member.train.epochs, self._state_so_far()
        with (
            tensorboard_tracker(self.folder.events, wanted=self.tensorboard, num_epochs=state.num_epochs) as events,
            view.bar(
                str(self), epochs=epochs, work=self.training_flops(table), share_before=state.num_epochs / epochs
            ) as bar,
        ):
            states = train_fold(
                self.member,
                store.images[inside],
                table.classes[inside],
                seed=self.seed,
                machine=machine,
                resume=state,
                on_images=bar,
            )
            for state in states:
                self.folder.save_checkpoint(state.records(), state.tensors)
                last = state.history[-1]
                events.add(state.records()[-1])
                bar.say(f"loss {last.loss:.3f}, accuracy {last.accuracy:.3f}")
                self.log_epoch(last, view)
                yield last
        model = build_model(self.member, machine.device, state.weights())
        predictions = self._judge(machine, model, store.ids[outside], store.images[outside], view)
        self.folder.finish(state.records(), state.weights(), predictions)
        self.log_score(predictions, table)

    def log_epoch(self, last: EpochRecord, view: ProgressDisplay, where: str = "") -> None:
        """Say what an epoch brought, and how long it will still take."""
        epochs = self.member.train.epochs
        left = timedelta(seconds=round((epochs - last.epoch) * last.seconds))
        log.info(
            "%s%s: epoch %d of %d, loss %.4f, training accuracy %.4f, %.0f images/s, %s left in this fold, %s in all",
            *(self, where, last.epoch, epochs, last.loss, last.accuracy, last.images_per_second, left),
            view.time_left(),
        )

    def log_score(self, predictions: Predictions, table: FoldTable) -> None:
        """Say how right a finished fold is about the images that it held out."""
        scores = score(predictions.probabilities, table.classes_of(predictions.ids))
        log.info("%s: accuracy %.4f on the images held out", self, scores["accuracy"])

    def missing_slices(self, store: ImageStore, rows: NDArray[np.int64], name: str) -> dict[int, NDArray[np.int64]]:
        """Return the numbers and rows of those slices of some test images that are not predicted under a name yet."""
        slices = [rows[start : start + SLICE] for start in range(0, len(rows), SLICE)]
        return {n: part for n, part in enumerate(slices) if not self.folder.has_test(name, n, store.ids[part])}

    def trained_net(self, machine: Machine) -> nn.Module:
        """Return the fold's network, ready to predict."""
        return for_inference(build_model(self.member, machine.device, self.folder.weights()), machine)

    def predict_test(self, machine: Machine, store: ImageStore, asked: PredictRequest, live: ProgressDisplay) -> None:
        """Predict some of the test images, and keep their probabilities slice by slice."""
        missing = self.missing_slices(store, asked.rows, asked.name)
        if not missing:
            return
        began, net = time.perf_counter(), self.trained_net(machine)
        num_missing = sum(map(len, missing.values()))
        work = self.prediction_flops(num_missing, asked)
        with live.bar(f"{self}: test images, {len(asked.views)} views", work=work) as on_images:
            num_done = 0
            for number, rows in missing.items():
                tell = partial(_tell, on_images, num_done, num_missing)
                found = predict_slice(net, store.ids[rows], store.images[rows], asked.views, machine, tell)
                self.folder.save_test(asked.name, number, found)
                num_done += len(rows)
        speed = num_missing / (time.perf_counter() - began)
        log.info(
            "%s: %s test images predicted, %d views, %.0f a second", self, f"{num_missing:,}", len(asked.views), speed
        )

    def _state_so_far(self) -> TrainState:
        try:
            kept = self.folder.load_checkpoint()
        except CorruptedFileError as error:
            log.warning("%s; %s is trained from its start", error.what, self)
            kept = None
        if kept is None:
            return TrainState()
        state = TrainState([EpochRecord(**row) for row in kept[0]], kept[1])
        log.info("%s: goes on after epoch %d", self, state.num_epochs)
        return state

    def _judge(
        self, machine: Machine, model: nn.Module, ids: NDArray[np.int64], images: NDArray[np.uint8], view: ProgressDisplay
    ) -> Predictions:
        began = time.perf_counter()
        with view.bar(f"{self}: held-out images") as on_images:
            probabilities = predict(model, images, self.views, machine, on_images=on_images)
        speed = len(ids) / (time.perf_counter() - began)
        log.info("%s: %s held-out images predicted, %.0f a second", self, f"{len(ids):,}", speed)
        return Predictions(ids, probabilities)


def predict_slice(
    net: nn.Module,
    ids: NDArray[np.int64],
    images: NDArray[np.uint8],
    views: Sequence[TTAView],
    machine: Machine,
    on_images: ProgressCallback = no_progress,
) -> Predictions:
    """Return what a network says of uint8 test images [N, 32, 32, 3] in some of the views."""
    return Predictions(ids, _softmax(predict_logits(net, images, views, machine, on_images=on_images), views))


def _tell(on_images: ProgressCallback, before: int, total: int, done: int, _of_slice: int) -> None:
    on_images(before + done, total)


def _softmax(logits: NDArray[np.float32], views: Sequence[TTAView]) -> NDArray[np.float32]:
    """Return the probabilities of logits that were summed over some of the views only."""
    return torch.from_numpy(logits / sum(view.weight for view in views)).softmax(1).numpy()
