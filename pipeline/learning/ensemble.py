"""Members' out-of-fold probabilities -> their temperatures, and the weights of their blend."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

Probabilities = NDArray[np.float32]
SMALLEST = 1e-12  # a probability of 0 would make the log loss infinite


def find_temperature(probabilities: Probabilities, classes: NDArray[np.int64]) -> float:
    """Return the temperature at which probabilities [N, classes] have the least log loss (Guo et al. 2017).

    Label smoothing leaves some members with too little confidence and others with too much. Without a common scale a
    blend would listen to the loudest and not to the best.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))
    rows = np.arange(len(classes))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[rows, classes]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def find_weights(out_of_fold: Mapping[str, Probabilities], classes: NDArray[np.int64]) -> dict[str, float]:
    """Return a weight per member, at least 0 and 1 in sum, for the least log loss of the weighted mean.

    Each member has probabilities [N, classes] for the same images. The loss is convex in the weights, so there is
    one optimum (stacking with non-negative weights: Breiman 1996).
    """
    names = list(out_of_fold)
    if len(names) == 1:
        return {names[0]: 1.0}
    # Only the probability of the true class counts: [members, N].
    true_class = np.stack([out_of_fold[name][np.arange(len(classes)), classes] for name in names]).astype(np.float64)

    def loss(weights: NDArray[np.float64]) -> float:
        return float(-np.log(np.maximum(weights @ true_class, SMALLEST)).mean())

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return -(true_class / np.maximum(weights @ true_class, SMALLEST)).mean(axis=1)

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
