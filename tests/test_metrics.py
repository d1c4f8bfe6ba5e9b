import math

import numpy as np
import pytest

from pipeline.learning.metrics import (
    accuracy_interval,
    confusion,
    paired_test,
    reliability_diagram,
    score,
    score_classes,
)
from pipeline.results import ReliabilityDiagram

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], np.float32)
LABELS = np.array([0, 1, 1, 2])


def wilson(num_correct, num_images):
    """Return Wilson's interval from its formula."""
    z, p = 1.959963984540054, num_correct / num_images
    centre = (p + z**2 / (2 * num_images)) / (1 + z**2 / num_images)
    half = z / (1 + z**2 / num_images) * math.sqrt(p * (1 - p) / num_images + z**2 / (4 * num_images**2))
    return centre - half, centre + half


@pytest.mark.parametrize(
    ("num_correct", "num_images", "low", "high"),
    [
        (78, 100, 0.689296, 0.849987),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (7_800, 10_000, 0.771774, 0.788011),
    ],
)
def test_accuracy_interval_is_wilsons(num_correct, num_images, low, high):
    interval = accuracy_interval(num_correct, num_images)

    assert interval == pytest.approx((low, high), abs=1e-6)
    assert interval == pytest.approx(wilson(num_correct, num_images), abs=1e-6)


def test_scores_equal_a_calculation_by_hand():
    scores = score(PROBABILITIES, LABELS)

    assert scores.num_images == 4
    assert scores.accuracy == 0.75
    assert scores.accuracy_ci95 == accuracy_interval(3, 4)
    assert scores.log_loss == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.6]).mean(), abs=1e-6)


def test_class_scores_and_confusion_matrix_equal_a_calculation_by_hand():
    matrix = confusion(PROBABILITIES, LABELS)
    per_class = score_classes(matrix, ["a", "b", "c"])

    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert {name: scores.accuracy for name, scores in per_class.items()} == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert per_class["b"].num_images == 2
    assert per_class["b"].accuracy_ci95 == accuracy_interval(1, 2)


def test_confusion_matrix_and_log_loss_include_classes_without_an_image():
    labels = np.array([0, 1, 1, 0])

    assert confusion(PROBABILITIES, labels).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert score(PROBABILITIES, labels).log_loss == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.2]).mean(), abs=1e-6)


def test_paired_test_depends_on_the_images_where_two_models_differ():
    both, one, other = np.ones(100, bool), np.ones(12, bool), np.ones(3, bool)
    correct, other_correct = np.concatenate([both, one, ~other]), np.concatenate([both, ~one, other])
    test = paired_test(correct, other_correct)

    assert (test.num_images, test.only_first, test.only_second) == (115, 12, 3)
    assert test.p_value == pytest.approx(2 * sum(math.comb(15, k) for k in range(4)) / 2**15)
    assert paired_test(correct, correct).p_value == 1.0


def test_calibration_equals_a_calculation_by_hand():
    diagram = reliability_diagram(PROBABILITIES, LABELS, num_bins=2)

    # 0.5 is in the upper bin, as all largest probabilities are: confidence 0.65, three of four correct.
    assert diagram.num_images == [4]
    assert diagram.confidence == pytest.approx([0.65])
    assert diagram.accuracy == [0.75]
    assert diagram.ece == pytest.approx(0.10)


def test_confident_and_correct_model_has_no_calibration_error():
    diagram = reliability_diagram(np.eye(3, dtype=np.float32)[LABELS], LABELS)

    assert diagram == ReliabilityDiagram(confidence=[1.0], accuracy=[1.0], num_images=[4], ece=0.0)
