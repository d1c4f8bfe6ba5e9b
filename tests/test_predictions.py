import numpy as np
import pytest

from pipeline.predictions import Predictions, join

RNG = np.random.default_rng(0)


def random_predictions(ids):
    return Predictions(np.array(ids), RNG.normal(size=(len(ids), 10)).astype(np.float32))


def test_ids_and_logits_of_different_length_are_rejected():
    with pytest.raises(ValueError, match=r"shapes do not match: ids \(2,\), logits \(3, 10\)"):
        Predictions(np.array([1, 2]), np.ones((3, 10), np.float32))
    with pytest.raises(ValueError, match="shapes do not match"):
        Predictions(np.array([1, 2]), np.ones(2, np.float32))


@pytest.mark.parametrize("ids", [[2, 2], [2, 1]])
def test_ids_that_are_repeated_or_not_ascending_are_rejected(ids):
    with pytest.raises(ValueError, match="not ascending, or contain a duplicate"):
        Predictions(np.array(ids), np.ones((2, 10), np.float32))


def test_logits_are_looked_up_by_id():
    predictions = random_predictions([3, 5, 9])

    assert np.array_equal(predictions.logits_for(np.array([9, 3])), predictions.logits[[2, 0]])


@pytest.mark.parametrize("unknown", [4, 100, 1])
def test_id_without_a_prediction_is_an_error(unknown):
    predictions = random_predictions([3, 5, 9])

    for lookup in (predictions.logits_for, predictions.select):
        with pytest.raises(ValueError, match=f"no prediction for id {unknown}"):
            lookup(np.sort(np.array([3, unknown])))


def test_selected_predictions_keep_ids_and_logits_together():
    predictions = random_predictions([3, 5, 9])
    selected = predictions.select(np.array([3, 9]))

    assert selected.ids.tolist() == [3, 9]
    assert np.array_equal(selected.logits, predictions.logits[[0, 2]])


def test_folds_are_joined_by_id():
    one, other = random_predictions([1, 4]), random_predictions([2, 3])
    joined = join([one, other])

    assert joined.ids.tolist() == [1, 2, 3, 4]
    assert np.array_equal(joined.logits_for(one.ids), one.logits)
    assert np.array_equal(joined.logits_for(other.ids), other.logits)


def test_folds_with_a_common_id_are_not_joined():
    with pytest.raises(ValueError, match="contain a duplicate"):
        join([random_predictions([1, 4]), random_predictions([4, 5])])


def test_predicted_label_is_the_class_of_the_largest_logit():
    logits = np.array([[0.1, 0.9, 0.0], [2.0, -1.0, 1.0]], np.float32)

    assert Predictions(np.array([1, 2]), logits).labels.tolist() == [1, 0]


def test_logits_of_probabilities_are_their_finite_logarithms():
    probabilities = np.array([[1.0, 0.0], [0.25, 0.75]], np.float32)
    predictions = Predictions.from_probabilities(np.array([1, 2]), probabilities)

    assert np.isfinite(predictions.logits).all()
    assert np.allclose(np.exp(predictions.logits), probabilities, atol=1e-7)
