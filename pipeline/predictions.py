"""Logits keyed by image id; a mismatch raises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.results import CascadeStats
from pipeline.task import Ids

Logits = NDArray[np.float32]
EPS = 1e-30  # keeps the logarithm of a probability of 0 finite


@dataclass(frozen=True)
class Predictions:
    """Ids [N], ascending and unique, and logits [N, classes]."""

    ids: Ids
    logits: Logits

    def __post_init__(self) -> None:
        """Raises ValueError for shapes that do not match, and ids that are not ascending or repeated."""
        if self.logits.ndim != 2 or self.ids.shape != self.logits.shape[:1]:
            raise ValueError(f"shapes do not match: ids {self.ids.shape}, logits {self.logits.shape}")
        if not (np.diff(self.ids) > 0).all():
            raise ValueError("ids are not ascending, or contain a duplicate")

    @classmethod
    def from_probabilities(cls, ids: Ids, probabilities: NDArray[np.float32]) -> Self:
        """Return predictions whose logits are the logarithms of probabilities [N, classes]."""
        return cls(ids, np.log(np.maximum(probabilities, EPS)))

    @property
    def labels(self) -> NDArray[np.int64]:
        """Predicted labels [N]."""
        return self.logits.argmax(1)

    def logits_for(self, ids: Ids) -> Logits:
        """Return the logits of some ids, in their order. Raises ValueError for an id without a prediction."""
        rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        if not np.array_equal(self.ids[rows], ids):
            raise ValueError(f"no prediction for id {ids[self.ids[rows] != ids][0]}")
        return self.logits[rows]

    def select(self, ids: Ids) -> "Predictions":
        """Return the predictions of some ids, ascending. Raises ValueError for an id without a prediction."""
        return Predictions(ids, self.logits_for(ids))


def join(parts: Sequence[Predictions]) -> Predictions:
    """Join predictions of disjoint sets of ids. Raises ValueError if two share an id."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    return Predictions(ids[order], np.concatenate([part.logits for part in parts])[order])


@dataclass(frozen=True)
class CascadePredictions:
    """The ensemble's predictions of the test images, as log probabilities."""

    predictions: Predictions
    forward_passes: NDArray[np.int64]
    """Forward passes (models x TTA views) [N] of each image."""
    stats: CascadeStats
