"""The state of a fold's training after an epoch: all that is needed to resume it bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from pipeline.errors import TrainingError

Row = dict[str, float | None]
LR_PREFIX = "lr_"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: means over its steps, final learning rates, wall time."""

    epoch: int
    """From 1."""
    loss: float
    accuracy: float
    """Running training accuracy: of each augmented batch, before its update."""
    learning_rates: Mapping[str, float]
    """Final learning rate of each optimizer."""
    seconds: float
    """Of the training, without its validation."""
    images_per_second: float
    validation_loss: float | None = None
    """In nats, without label smoothing; None if the epoch was not evaluated."""
    validation_accuracy: float | None = None
    """Of the weights that would be saved now: the EMA's where there is one."""

    def summary(self) -> str:
        """Return the metrics for a progress bar."""
        if self.validation_accuracy is None:
            return f"loss {self.loss:.3f}, accuracy {self.accuracy:.3f}"
        return f"loss {self.loss:.3f}, validation {self.validation_accuracy:.3f}"

    def to_row(self) -> Row:
        """Return a flat row of the history, with a column `lr_NAME` for each optimizer."""
        rates = {f"{LR_PREFIX}{name}": rate for name, rate in self.learning_rates.items()}
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            **rates,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the record of a row of the history."""
        rates = {key.removeprefix(LR_PREFIX): rate for key, rate in row.items() if key.startswith(LR_PREFIX)}
        rest = {key: value for key, value in row.items() if not key.startswith(LR_PREFIX)}
        return cls(learning_rates=rates, **rest)


@dataclass(frozen=True)
class UnfinishedEpoch:
    """Sums over the steps of an epoch so far."""

    num_steps: int = 0
    loss_sum: float = 0.0
    num_correct: int = 0
    num_images: int = 0
    seconds: float = 0.0

    def add(self, loss: float, num_correct: int, num_images: int, seconds: float) -> "UnfinishedEpoch":
        """Return the sums with those of one more step."""
        return UnfinishedEpoch(
            self.num_steps + 1,
            self.loss_sum + loss,
            self.num_correct + num_correct,
            self.num_images + num_images,
            self.seconds + seconds,
        )


@dataclass(frozen=True)
class TrainState:
    """History and tensors after a step. No RNG state is needed: every step and batch has a seed of its own.

    The tensors are those of the training itself, which changes them later: use them before the next state is taken.
    """

    history: list[EpochRecord] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Named `model.*`, `ema.*` and `optimizer.*`; and `num_updates`."""
    unfinished_epoch: UnfinishedEpoch | None = None
    """None after an epoch."""

    @property
    def num_epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def position(self) -> str:
        """When the state was taken."""
        if self.unfinished_epoch is None:
            return f"after epoch {self.num_epochs}"
        return f"at epoch {self.num_epochs + 1}, step {self.unfinished_epoch.num_steps}"

    def check_finite(self) -> None:
        """Raise TrainingError if a weight, a statistic or the state of an optimizer is infinite or NaN."""
        for name, tensor in self.tensors.items():
            if not bool(tensor.isfinite().all()):
                raise TrainingError(
                    f"the training has diverged: {name} is not finite {self.position}; this state is not "
                    "saved. Lower train.optimizer.lr (or muon.lr) and choose another --run"
                )

    def rows(self) -> list[Row]:
        """Return the history as flat rows."""
        return [record.to_row() for record in self.history]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights for inference, on the CPU: the EMA weights where the config has an EMA."""
        weights = strip_prefix(self.tensors, "ema.") or strip_prefix(self.tensors, "model.")
        return {name: tensor.cpu().contiguous() for name, tensor in weights.items()}


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
