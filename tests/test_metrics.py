import math

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.learning.metrics import accuracy_interval, calibration, paired_test, score, score_by_class

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], np.float32)
CLASSES = np.array([0, 1, 1, 2])


@pytest.mark.parametrize(("right", "total"), [(78, 100), (0, 10), (10, 10), (7_800, 10_000)])
def test_the_interval_is_wilsons(right, total):
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")

    assert accuracy_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_scores_by_hand():
    scores = score(PROBABILITIES, CLASSES)

    assert scores["num_images"] == 4
    assert scores["accuracy"] == 0.75
    assert scores["log_loss"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.6]).mean(), abs=1e-6)


def test_classes_and_confusion_by_hand():
    found = score_by_class(PROBABILITIES, CLASSES, ["a", "b", "c"])

    assert found["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert {name: part["accuracy"] for name, part in found["per_class"].items()} == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert found["per_class"]["b"]["num_images"] == 2


def test_two_models_are_compared_by_the_images_on_which_they_differ():
    both, one, other = np.ones(100, bool), np.ones(12, bool), np.ones(3, bool)
    right, other_right = np.concatenate([both, one, ~other]), np.concatenate([both, ~one, other])
    found = paired_test(right, other_right)

    assert (found["num_images"], found["only_first"], found["only_second"]) == (115, 12, 3)
    assert found["p_value"] == pytest.approx(2 * sum(math.comb(15, k) for k in range(4)) / 2**15)
    assert paired_test(right, right)["p_value"] == 1.0


def test_calibration_by_hand():
    found = calibration(PROBABILITIES, CLASSES, num_bins=2)

    # 0.5 lies in the upper bin, as all largest probabilities do: confidence 0.65, three of four right.
    assert found["num_images"] == [4]
    assert found["confidence"] == pytest.approx([0.65])
    assert found["accuracy"] == [0.75]
    assert found["error"] == pytest.approx(0.10)


def test_a_sure_and_right_model_has_no_calibration_error():
    found = calibration(np.eye(3, dtype=np.float32)[CLASSES], CLASSES)

    assert found == {"confidence": [1.0], "accuracy": [1.0], "num_images": [4], "error": 0.0}
