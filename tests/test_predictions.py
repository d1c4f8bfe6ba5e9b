import tracemalloc

import numpy as np
import pytest

from pipeline.ensemble import find_temperature, find_weights
from pipeline.predictions import Predictions, blend, join, mean_of_logits, weighted_mean

RNG = np.random.default_rng(0)


def some(ids):
    values = RNG.random((len(ids), 10), dtype=np.float32)
    return Predictions(np.array(ids), values / values.sum(1, keepdims=True))


def test_ids_and_probabilities_belong_together():
    with pytest.raises(ValueError, match="do not fit together"):
        Predictions(np.array([1, 2]), np.ones((3, 10), np.float32))
    with pytest.raises(ValueError, match="not ascending, or one stands twice"):
        Predictions(np.array([2, 2]), np.ones((2, 10), np.float32))


def test_rows_are_found_by_id():
    predictions = some([3, 5, 9])

    assert np.array_equal(predictions.of(np.array([9, 3])), predictions.probabilities[[2, 0]])
    for foreign in (4, 100, 1):
        with pytest.raises(ValueError, match=f"no prediction for id {foreign}"):
            predictions.of(np.array([3, foreign]))


def test_folds_are_joined_by_id():
    one, other = some([1, 4]), some([2, 3])
    joined = join([one, other])

    assert joined.ids.tolist() == [1, 2, 3, 4]
    assert np.array_equal(joined.of(other.ids), other.probabilities)
    with pytest.raises(ValueError, match="one stands twice"):
        join([one, some([4, 5])])


def test_only_the_same_ids_are_averaged():
    one, other = some([1, 2]), some([1, 2])

    expected = 0.75 * one.probabilities + 0.25 * other.probabilities
    assert np.allclose(weighted_mean([one, other], [3, 1]).probabilities, expected)
    for average in (weighted_mean, mean_of_logits):
        with pytest.raises(ValueError, match="different ids"):
            average([one, some([1, 3])], [1, 1])


def test_the_mean_of_many_nets_holds_a_few_of_them():
    """50 members on five folds; of each only what is added at the moment."""
    ids = np.arange(20_000)
    size = some(ids).probabilities.nbytes
    tracemalloc.start()
    found = weighted_mean((some(ids) for _ in range(250)), [1.0] * 250)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert np.allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert peak < 12 * size


def test_the_mean_of_logits_is_a_weighted_geometric_mean():
    one, other = some([1, 2]), some([1, 2])
    powers = one.probabilities**0.75 * other.probabilities**0.25
    found = mean_of_logits([one, other], [3, 1])

    assert np.allclose(found.probabilities, powers / powers.sum(1, keepdims=True), atol=1e-6)
    assert mean_of_logits([one], [0.25]) is one


def test_a_certain_no_is_finite():
    sure, unsure = (Predictions(np.array([1]), np.array([[p, 1 - p]], np.float32)) for p in (1.0, 0.5))

    assert np.isfinite(mean_of_logits([sure, unsure], [1, 1]).probabilities).all()


def test_a_blend_weighs_by_name():
    one, other = some([1, 2]), some([1, 2])
    blended = blend({"a": one, "b": other}, {"b": 0.25, "a": 0.75})

    assert np.allclose(blended.probabilities, 0.75 * one.probabilities + 0.25 * other.probabilities)
    with pytest.raises(ValueError, match="are not the same"):
        blend({"a": one}, {"b": 1.0})


def noisy(classes, noise, seed):
    logits = np.eye(10)[classes] + np.random.default_rng(seed).normal(0, noise, size=(len(classes), 10))
    values = np.exp(3 * logits)
    return (values / values.sum(1, keepdims=True)).astype(np.float32)


def log_loss(probabilities, classes):
    return -np.log(probabilities[np.arange(len(classes)), classes]).mean()


def test_weights_find_the_least_log_loss_of_a_grid():
    classes = np.arange(2000) % 10
    members = {"good": noisy(classes, 0.4, 1), "fair": noisy(classes, 0.5, 2), "bad": noisy(classes, 3, 3)}
    weights = find_weights(members, classes)
    found = log_loss(sum(weights[name] * members[name] for name in members), classes)
    grid = min(
        log_loss(a * members["good"] + b * members["fair"] + (1 - a - b) * members["bad"], classes)
        for a in np.linspace(0, 1, 21)
        for b in np.linspace(0, 1 - a, 21)
    )

    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0
    assert weights["good"] > weights["fair"] > weights["bad"]
    assert found <= grid + 1e-5


def test_one_member_has_all_the_weight():
    assert find_weights({"only": noisy(np.arange(10), 1, 1)}, np.arange(10)) == {"only": 1.0}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_a_temperature_that_was_put_on_is_found(temperature):
    """Classes drawn from the probabilities themselves: those are right, so what was put on must come off again."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, size=(20_000, 10))
    right = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = (right.cumsum(1) > rng.random((len(right), 1))).argmax(1)
    turned = Predictions(np.arange(len(right)), right.astype(np.float32)).at_temperature(1 / temperature)

    assert find_temperature(turned.probabilities, classes) == pytest.approx(temperature, rel=0.05)
    assert np.allclose(turned.at_temperature(temperature).probabilities, right, atol=1e-5)
    assert np.array_equal(turned.probabilities.argmax(1), right.argmax(1))


def test_a_shy_member_that_is_right_is_heard():
    """The better member with flat probabilities loses a blend by raw log loss, and wins it once calibrated."""
    classes = np.arange(2000) % 10
    shy = Predictions(np.arange(2000), noisy(classes, 0.4, 1)).at_temperature(8.0)
    loud = Predictions(np.arange(2000), noisy(classes, 0.7, 2))
    members = {"shy": shy, "loud": loud}
    calibrated = {n: p.at_temperature(find_temperature(p.probabilities, classes)) for n, p in members.items()}

    raw = find_weights({name: p.probabilities for name, p in members.items()}, classes)
    assert raw["shy"] < 0.5
    assert find_weights({name: p.probabilities for name, p in calibrated.items()}, classes)["shy"] > 0.5
