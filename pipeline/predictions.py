"""Probabilities with their ids. They never travel apart, and a mismatch raises."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Ids = NDArray[np.int64]
SMALLEST = 1e-30  # the logarithm of 0 would outweigh every other view


@dataclass(frozen=True)
class Predictions:
    """Ids [N], ascending and each once, and probabilities [N, classes]."""

    ids: Ids
    probabilities: Probabilities

    def __post_init__(self) -> None:
        """Refuse what does not belong together."""
        if self.probabilities.ndim != 2 or self.ids.shape != self.probabilities.shape[:1]:
            raise ValueError(f"ids {self.ids.shape} and probabilities {self.probabilities.shape} do not fit together")
        if not (np.diff(self.ids) > 0).all():
            raise ValueError("ids are not ascending, or one stands twice")

    def of(self, ids: Ids) -> Probabilities:
        """Return the probabilities of some of the ids, in their order. Raises ValueError for an id without any."""
        rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        if not np.array_equal(self.ids[rows], ids):
            raise ValueError(f"no prediction for id {ids[self.ids[rows] != ids][0]}")
        return self.probabilities[rows]

    def select(self, ids: Ids) -> "Predictions":
        """Return those of some of the ids, ascending. Raises ValueError for an id without any."""
        return Predictions(ids, self.of(ids))

    def at_temperature(self, temperature: float) -> "Predictions":
        """Return them with more confidence (below 1) or less (above 1); no image changes its class."""
        powers = self.probabilities.astype(np.float64) ** (1 / temperature)
        return Predictions(self.ids, (powers / powers.sum(1, keepdims=True)).astype(np.float32))


def join(parts: Sequence[Predictions]) -> Predictions:
    """Put predictions for different ids together. Raises ValueError if two have the same id."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    return Predictions(ids[order], np.concatenate([part.probabilities for part in parts])[order])


def blend(members: Mapping[str, Predictions], weights: Mapping[str, float]) -> Predictions:
    """Return the weighted mean of the members' predictions. Raises ValueError if names or ids differ."""
    if members.keys() != weights.keys():
        raise ValueError(f"members {sorted(members)} and weights {sorted(weights)} are not the same")
    return weighted_mean(members.values(), [weights[name] for name in members])


def weighted_mean(parts: Iterable[Predictions], weights: Sequence[float]) -> Predictions:
    """Return the weighted mean of predictions for the same ids. Raises ValueError if the ids differ.

    The parts are taken one after the other, so that they need not all be held at once.
    """
    ids, mean = _mean(((part.ids, part.probabilities) for part in parts), weights)
    return Predictions(ids, mean.astype(np.float32))


def mean_of_logits(parts: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Return the probabilities of the weighted mean of the logits. Raises ValueError if the ids differ."""
    if len(parts) == 1:
        return parts[0]
    ids, logits = _mean(((part.ids, np.log(np.maximum(part.probabilities, SMALLEST))) for part in parts), weights)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return Predictions(ids, (powers / powers.sum(1, keepdims=True)).astype(np.float32))


def _mean(parts: Iterable[tuple[Ids, Probabilities]], weights: Sequence[float]) -> tuple[Ids, NDArray[np.float64]]:
    """Sum in double precision and in the order given, so that the bytes depend on nothing else."""
    ids, total = np.empty(0, np.int64), np.empty((0, 0))
    for place, ((part_ids, values), weight) in enumerate(zip(parts, weights, strict=True)):
        if place == 0:
            ids, total = part_ids, np.zeros(values.shape, np.float64)
        if not np.array_equal(part_ids, ids):
            raise ValueError("predictions for different ids can't be averaged")
        total += weight / sum(weights) * values.astype(np.float64)
    return ids, total
