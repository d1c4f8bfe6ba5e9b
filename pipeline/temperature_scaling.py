"""Temperature scaling (Guo et al. 2017), and the only softmax: logits -> calibrated probabilities."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.predictions import Logits


def to_probabilities(logits: Logits, temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the softmax [N, classes] of logits [N, classes] at a temperature."""
    return softmax_at(logits, temperature).astype(np.float32)


def softmax_at(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Return the softmax [N, classes] of logits [N, classes] at a temperature, in double precision."""
    return softmax(logits / np.float64(temperature), axis=1)


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the log loss of logits [N, classes]."""
    exact, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(exact / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
