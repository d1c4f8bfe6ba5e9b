"""One member on one fold: trained, judged on what it held out, and asked about the test images."""

import time
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.competition.images import ImageStore
from pipeline.config import MemberConfig
from pipeline.learning.device import Machine
from pipeline.learning.metrics import score
from pipeline.learning.predict import Views, predict
from pipeline.learning.train import EpochRecord, TrainState, build_model, train_fold
from pipeline.predictions import Predictions
from pipeline.progress import bar, log
from pipeline.runs.folder import FoldFolder, FoldTable


@dataclass(frozen=True)
class FoldJob:
    """A member on a fold (from 0), with its seed and its folder. It depends on no other job."""

    name: str
    member: MemberConfig
    fold: int
    seed: int
    views: Views
    folder: FoldFolder

    def __str__(self) -> str:
        return f"{self.name} fold {self.fold}"

    def train(self, machine: Machine, store: ImageStore, table: FoldTable) -> None:
        """Train from the last whole epoch on, judge, and keep weights and out-of-fold predictions."""
        inside, outside = table.folds != self.fold, table.folds == self.fold
        state = self._state_so_far()
        with bar(str(self), epochs=self.member.train.epochs) as on_images:
            states = train_fold(
                self.member,
                store.images[inside],
                table.classes[inside],
                seed=self.seed,
                machine=machine,
                resume=state,
                on_images=on_images,
            )
            for state in states:
                self.folder.save_checkpoint(state.records(), state.tensors)
                self._log_epoch(state)
        model = build_model(self.member, machine.device, state.weights())
        predictions = self._predict(machine, model, store.ids[outside], store.images[outside], "held-out images")
        self.folder.finish(state.records(), state.weights(), predictions)
        scores = score(predictions.probabilities, table.classes[outside])
        log.info("%s: accuracy %.4f on the images held out", self, scores["accuracy"])

    def predict_test(self, machine: Machine, store: ImageStore) -> None:
        """Predict the test images and keep the probabilities."""
        model = build_model(self.member, machine.device, self.folder.weights())
        self.folder.save_test(self._predict(machine, model, store.ids, store.images, "test images"))

    def _state_so_far(self) -> TrainState:
        kept = self.folder.load_checkpoint()
        if kept is None:
            return TrainState()
        state = TrainState([EpochRecord(**row) for row in kept[0]], kept[1])
        log.info("%s: goes on after epoch %d", self, state.num_epochs)
        return state

    def _predict(
        self, machine: Machine, model: nn.Module, ids: NDArray[np.int64], images: NDArray[np.uint8], what: str
    ) -> Predictions:
        began = time.perf_counter()
        with bar(f"{self}: {what}") as on_images:
            probabilities = predict(model, images, self.views, machine, on_images=on_images)
        speed = len(ids) / (time.perf_counter() - began)
        log.info("%s: %s %s predicted, %.0f a second", self, f"{len(ids):,}", what, speed)
        return Predictions(ids, probabilities)

    def _log_epoch(self, state: TrainState) -> None:
        last, epochs = state.history[-1], self.member.train.epochs
        left = timedelta(seconds=round((epochs - last.epoch) * last.seconds))
        log.info(
            "%s: epoch %d of %d, loss %.4f, training accuracy %.4f, %.0f images/s, %s left in this fold",
            *(self, last.epoch, epochs, last.loss, last.accuracy, last.images_per_second, left),
        )
