"""One member on one fold: trained, judged on what it held out, and asked about the test images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.competition.images import ImageStore
from pipeline.config import MemberConfig
from pipeline.learning.device import Machine
from pipeline.learning.flops import pass_flop, training_flop
from pipeline.learning.metrics import score
from pipeline.learning.predict import View, Views, for_inference, predict, predict_logits
from pipeline.learning.train import EpochRecord, TrainState, build_model, train_fold
from pipeline.predictions import Predictions
from pipeline.progress import LiveView, OnImages, log
from pipeline.runs.event_log import event_log
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.folder import FoldTable
from pipeline.runs.prediction_files import DamagedError

SLICE = 20_000  # test images between two savings


@dataclass(frozen=True)
class FoldJob:
    """A member on a fold (from 0), with its seed and its folder. It depends on no other job."""

    name: str
    member: MemberConfig
    fold: int
    seed: int
    views: Views
    folder: FoldFolder
    tensorboard: bool = False
    """Whether its history is written for TensorBoard too."""

    def __str__(self) -> str:
        return f"{self.name} fold {self.fold}"

    def training_work(self, table: FoldTable) -> float:
        """Return the operations that its training takes."""
        return training_flop(self.member, int((table.folds != self.fold).sum()))

    def train(self, machine: Machine, store: ImageStore, table: FoldTable, view: LiveView) -> None:
        """Train from the last whole epoch on, judge, and keep weights and out-of-fold predictions."""
        inside, outside = table.folds != self.fold, table.folds == self.fold
        epochs, state = self.member.train.epochs, self._state_so_far()
        with (
            event_log(self.folder.events, wanted=self.tensorboard, num_epochs=state.num_epochs) as events,
            view.bar(
                str(self), epochs=epochs, work=self.training_work(table), share_before=state.num_epochs / epochs
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
                events.add(state.records()[-1])
                bar.say(f"loss {state.history[-1].loss:.3f}, accuracy {state.history[-1].accuracy:.3f}")
                self._log_epoch(state, view)
        model = build_model(self.member, machine.device, state.weights())
        predictions = self._judge(machine, model, store.ids[outside], store.images[outside], view)
        self.folder.finish(state.records(), state.weights(), predictions)
        scores = score(predictions.probabilities, table.classes[outside])
        log.info("%s: accuracy %.4f on the images held out", self, scores["accuracy"])

    def predict_test(
        self,
        machine: Machine,
        store: ImageStore,
        rows: NDArray[np.int64],
        views: Sequence[View],
        name: str,
        live: LiveView,
    ) -> None:
        """Predict some of the test images, and keep their probabilities under a name, slice by slice."""
        slices = [rows[start : start + SLICE] for start in range(0, len(rows), SLICE)]
        missing = [n for n, part in enumerate(slices) if not self.folder.has_test(name, n, store.ids[part])]
        if not missing:
            return
        began, model = time.perf_counter(), build_model(self.member, machine.device, self.folder.weights())
        model = for_inference(model, machine)
        num_missing = sum(len(slices[number]) for number in missing)
        work = num_missing * pass_flop(self.member) * len(views)
        with live.bar(f"{self}: test images, {len(views)} views", work=work) as on_images:
            num_done = 0
            for number in missing:
                images = store.images[slices[number]]
                tell = partial(_tell, on_images, num_done, num_missing)
                logits = predict_logits(model, images, views, machine, on_images=tell)
                self.folder.save_test(name, number, Predictions(store.ids[slices[number]], _softmax(logits, views)))
                num_done += len(images)
        speed = num_missing / (time.perf_counter() - began)
        log.info("%s: %s test images predicted, %d views, %.0f a second", self, f"{num_missing:,}", len(views), speed)

    def _state_so_far(self) -> TrainState:
        try:
            kept = self.folder.load_checkpoint()
        except DamagedError as error:
            log.warning("%s; %s is trained from its start", error.what, self)
            kept = None
        if kept is None:
            return TrainState()
        state = TrainState([EpochRecord(**row) for row in kept[0]], kept[1])
        log.info("%s: goes on after epoch %d", self, state.num_epochs)
        return state

    def _judge(
        self, machine: Machine, model: nn.Module, ids: NDArray[np.int64], images: NDArray[np.uint8], view: LiveView
    ) -> Predictions:
        began = time.perf_counter()
        with view.bar(f"{self}: held-out images") as on_images:
            probabilities = predict(model, images, self.views, machine, on_images=on_images)
        speed = len(ids) / (time.perf_counter() - began)
        log.info("%s: %s held-out images predicted, %.0f a second", self, f"{len(ids):,}", speed)
        return Predictions(ids, probabilities)

    def _log_epoch(self, state: TrainState, view: LiveView) -> None:
        last, epochs = state.history[-1], self.member.train.epochs
        left = timedelta(seconds=round((epochs - last.epoch) * last.seconds))
        log.info(
            "%s: epoch %d of %d, loss %.4f, training accuracy %.4f, %.0f images/s, %s left in this fold, %s in all",
            *(self, last.epoch, epochs, last.loss, last.accuracy, last.images_per_second, left, view.time_left()),
        )


def _tell(on_images: OnImages, before: int, total: int, done: int, _of_slice: int) -> None:
    on_images(before + done, total)


def _softmax(logits: NDArray[np.float32], views: Sequence[View]) -> NDArray[np.float32]:
    """Return the probabilities of logits that were summed over some of the views only."""
    return torch.from_numpy(logits / sum(view.weight for view in views)).softmax(1).numpy()
