"""Numbers from probabilities [N, classes] and true classes [N]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

Probabilities = NDArray[np.float32]
Classes = NDArray[np.int64]


def accuracy_interval(num_right: int, num_all: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share (Wilson 1927): what else the true accuracy may be."""
    z = 1.959964
    share = num_right / num_all
    centre = share + z**2 / (2 * num_all)
    spread = z * np.sqrt(share * (1 - share) / num_all + z**2 / (4 * num_all**2))
    scale = 1 + z**2 / num_all
    return float((centre - spread) / scale), float((centre + spread) / scale)


def score(probabilities: Probabilities, classes: Classes) -> dict[str, Any]:
    """Return accuracy, its 95 % interval, log loss and n."""
    predicted = probabilities.argmax(1)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)  # float32 rows miss 1 by more than scikit-learn allows
    return {
        "num_images": len(classes),
        "accuracy": float(accuracy_score(classes, predicted)),
        "accuracy_95": accuracy_interval(int((predicted == classes).sum()), len(classes)),
        "log_loss": float(log_loss(classes, exact, labels=range(probabilities.shape[1]))),
    }


def score_by_class(probabilities: Probabilities, classes: Classes, names: Sequence[str]) -> dict[str, Any]:
    """Return the score of each class (recall) and the confusion matrix, rows true and columns predicted.

    Every class has images: the folds see to it.
    """
    matrix = confusion_matrix(classes, probabilities.argmax(1), labels=range(len(names)))
    per_class = {
        name: {
            "num_images": int(row.sum()),
            "accuracy": float(row[index] / row.sum()),
            "accuracy_95": accuracy_interval(int(row[index]), int(row.sum())),
        }
        for index, (name, row) in enumerate(zip(names, matrix, strict=True))
    }
    return {"per_class": per_class, "confusion": matrix.tolist()}


def calibration(probabilities: Probabilities, classes: Classes, num_bins: int = 15) -> dict[str, Any]:
    """Hold what was said with how much confidence against how often it was right (Guo et al. 2017).

    Bins of equal width over the largest probability; `error` is the expected calibration error: the mean distance of
    confidence and accuracy over all images. Bins without an image are left out.
    """
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == classes
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    mean_confidence = np.bincount(bins, confidence, num_bins)[filled] / counts[filled]
    accuracy = np.bincount(bins, right, num_bins)[filled] / counts[filled]
    return {
        "confidence": mean_confidence.tolist(),
        "accuracy": accuracy.tolist(),
        "num_images": counts[filled].tolist(),
        "error": float((counts[filled] * np.abs(mean_confidence - accuracy)).sum() / len(classes)),
    }


def paired_test(right: NDArray[np.bool_], other_right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return McNemar's exact test for two models on the same images [N], each told whether it was right.

    Only images on which one was right and the other wrong count; without a true difference they fall either way with
    the same chance.
    """
    only_one, only_other = int((right & ~other_right).sum()), int((~right & other_right).sum())
    p_value = binomtest(only_one, only_one + only_other).pvalue if only_one + only_other else 1.0
    return {"num_images": len(right), "only_first": only_one, "only_second": only_other, "p_value": float(p_value)}
