"""Scores of probabilities [N, classes] against true labels [N]."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from pipeline.results import Accuracy, Interval, PairedTest, ReliabilityDiagram, Scores

Probabilities = NDArray[np.float32]


def accuracy_interval(num_correct: int, num_images: int) -> Interval:
    """Return the 95 % confidence interval of an accuracy (Wilson 1927)."""
    interval = binomtest(num_correct, num_images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def score(probabilities: Probabilities, labels: NDArray[np.int64]) -> Scores:
    """Return accuracy, its 95 % confidence interval and the log loss."""
    predicted = probabilities.argmax(1)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)  # float32 rows miss 1 by more than scikit-learn allows
    return Scores(
        num_images=len(labels),
        accuracy=float(accuracy_score(labels, predicted)),
        accuracy_ci95=accuracy_interval(int((predicted == labels).sum()), len(labels)),
        log_loss=float(log_loss(labels, exact, labels=range(probabilities.shape[1]))),
    )


def confusion(probabilities: Probabilities, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the confusion matrix [classes, classes]; rows are true, columns are predicted."""
    return confusion_matrix(labels, probabilities.argmax(1), labels=range(probabilities.shape[1]))


def score_classes(matrix: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Accuracy]:
    """Return the recall of each class from a confusion matrix; every class has images, as the folds require it."""
    return {
        name: Accuracy(
            num_images=int(row.sum()),
            accuracy=float(row[index] / row.sum()),
            accuracy_ci95=accuracy_interval(int(row[index]), int(row.sum())),
        )
        for index, (name, row) in enumerate(zip(class_names, matrix, strict=True))
    }


def reliability_diagram(
    probabilities: Probabilities, labels: NDArray[np.int64], num_bins: int = 15
) -> ReliabilityDiagram:
    """Return the reliability diagram and the expected calibration error (Guo et al. 2017).

    Bins of equal width over the largest probability; the error is the mean distance of confidence and accuracy over
    all images.
    """
    confidence, correct = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    mean_confidence = np.bincount(bins, confidence, num_bins)[filled] / counts[filled]
    accuracy = np.bincount(bins, correct, num_bins)[filled] / counts[filled]
    return ReliabilityDiagram(
        confidence=mean_confidence.tolist(),
        accuracy=accuracy.tolist(),
        num_images=counts[filled].tolist(),
        ece=float((counts[filled] * np.abs(mean_confidence - accuracy)).sum() / len(labels)),
    )


def paired_test(correct: NDArray[np.bool_], other_correct: NDArray[np.bool_]) -> PairedTest:
    """Return McNemar's exact test of two models, given which of the same images [N] each classifies correctly."""
    only_first, only_second = int((correct & ~other_correct).sum()), int((~correct & other_correct).sum())
    discordant = only_first + only_second
    return PairedTest(
        num_images=len(correct),
        only_first=only_first,
        only_second=only_second,
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )
