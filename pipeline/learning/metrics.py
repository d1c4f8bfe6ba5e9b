"""Numbers from probabilities [N, classes] and true classes [N]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
    return {
        "num_images": len(classes),
        "accuracy": float(accuracy_score(classes, predicted)),
        "accuracy_95": accuracy_interval(int((predicted == classes).sum()), len(classes)),
        "log_loss": float(log_loss(classes, probabilities.astype(np.float64), labels=range(probabilities.shape[1]))),
    }


def score_by_class(probabilities: Probabilities, classes: Classes, names: Sequence[str]) -> dict[str, Any]:
    """Return the score of each class (recall) and the confusion matrix, rows true and columns predicted."""
    matrix = confusion_matrix(classes, probabilities.argmax(1), labels=range(len(names)))
    per_class = {}
    for index, name in enumerate(names):
        num_all = int(matrix[index].sum())
        if num_all:
            per_class[name] = {
                "num_images": num_all,
                "accuracy": float(matrix[index, index] / num_all),
                "accuracy_95": accuracy_interval(int(matrix[index, index]), num_all),
            }
    return {"per_class": per_class, "confusion": matrix.tolist()}
