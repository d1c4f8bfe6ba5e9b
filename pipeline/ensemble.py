"""Logits of the members -> the ensemble's probabilities: temperature scaling, then a weighted mean."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.optimize import minimize

from pipeline.predictions import EPS, Logits, Predictions
from pipeline.task import Ids
from pipeline.temperature_scaling import fit_temperature, softmax_at, to_probabilities

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Ensemble:
    """A temperature and a weight for each member; the weights sum to 1."""

    temperatures: Mapping[str, float]
    weights: Mapping[str, float]

    @classmethod
    def fit(cls, out_of_fold: Mapping[str, Logits], labels: NDArray[np.int64]) -> "Ensemble":
        """Fit temperatures and weights on the members' out-of-fold logits [N, classes] of the same images.

        Label smoothing leaves some members underconfident and others overconfident: without temperatures the
        overconfident ones dominate the average.
        """
        temperatures = {name: fit_temperature(logits, labels) for name, logits in out_of_fold.items()}
        probabilities = {name: to_probabilities(out_of_fold[name], temperatures[name]) for name in out_of_fold}
        return cls(temperatures, fit_weights(probabilities, labels))

    def probabilities(self, members: Iterable[tuple[str, Predictions]]) -> tuple[Ids, Probabilities]:
        """Return ids [N] and the weighted mean of calibrated probabilities [N, classes] of (member, predictions) pairs.

        A member may come more than once, for example once for each fold. The pairs are consumed one at a time, so
        they need not all fit into memory. Raises ValueError if ids differ, or there are no pairs.
        """
        ids, total, total_weight = None, np.zeros((0, 0)), 0.0
        for name, predictions in members:
            if ids is None:
                ids, total = predictions.ids, np.zeros(predictions.logits.shape)
            if not np.array_equal(predictions.ids, ids):
                raise ValueError("predictions of different ids can't be averaged")
            # In double precision and in the given order, so that the bytes are reproducible.
            total += self.weights[name] * softmax_at(predictions.logits, self.temperatures[name])
            total_weight += self.weights[name]
        if ids is None:
            raise ValueError("no predictions to average")
        return ids, (total / total_weight).astype(np.float32)

    def combine(self, members: Iterable[tuple[str, Predictions]]) -> Predictions:
        """Return the ensemble's predictions as logits: the logarithms of `probabilities`."""
        return Predictions.from_probabilities(*self.probabilities(members))

    def uncalibrated(self) -> "Ensemble":
        """Return the same weights with every temperature at 1."""
        return Ensemble(dict.fromkeys(self.temperatures, 1.0), self.weights)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ensemble.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Ensemble":
        """Return what `to_json` gave. Raises ValueError for anything else."""
        ensemble = TypeAdapter(cls).validate_python(values)
        if ensemble.temperatures.keys() != ensemble.weights.keys():
            raise ValueError("temperatures and weights have different members")
        return ensemble


def mean_logits(parts: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Return the weighted mean of logits of the same ids. Raises ValueError if the ids differ."""
    if len(parts) == 1:
        return parts[0]
    total = np.zeros(parts[0].logits.shape)
    for part, weight in zip(parts, weights, strict=True):
        if not np.array_equal(part.ids, parts[0].ids):
            raise ValueError("predictions of different ids can't be averaged")
        total += weight / sum(weights) * part.logits
    return Predictions(parts[0].ids, total.astype(np.float32))


def fit_weights(out_of_fold: Mapping[str, Probabilities], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return non-negative weights that sum to 1 and minimise the log loss of the weighted mean.

    Each member has probabilities [N, classes] of the same images. The loss is convex in the weights, so there is
    one optimum (stacking with non-negative weights: Breiman 1996).
    """
    names = list(out_of_fold)
    if len(names) == 1:
        return {names[0]: 1.0}
    # Only the probability of the true class matters: [members, N].
    true_class = np.stack([out_of_fold[name][np.arange(len(labels)), labels] for name in names]).astype(np.float64)

    def loss(weights: NDArray[np.float64]) -> float:
        return float(-np.log(np.maximum(weights @ true_class, EPS)).mean())

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return -(true_class / np.maximum(weights @ true_class, EPS)).mean(axis=1)

    found = minimize(
        loss,
        np.full(len(names), 1 / len(names)),
        jac=gradient,
        method="SLSQP",
        bounds=[(0, 1)] * len(names),
        constraints=({"type": "eq", "fun": lambda weights: weights.sum() - 1},),
    )
    weights = np.clip(found.x, 0, 1)
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))
