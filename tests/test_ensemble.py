import json
import tracemalloc
import weakref

import numpy as np
import pytest

from pipeline.ensemble import Ensemble, fit_weights, mean_logits
from pipeline.predictions import Predictions
from pipeline.temperature_scaling import fit_temperature, to_probabilities

RNG = np.random.default_rng(0)
ENSEMBLE = Ensemble(temperatures={"a": 0.5, "b": 2.0}, weights={"a": 0.75, "b": 0.25})


def random_predictions(ids):
    return Predictions(np.array(ids), RNG.normal(size=(len(ids), 10)).astype(np.float32))


def softmax(logits):
    """Return probabilities by the definition, in double precision."""
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


def noisy_logits(labels, noise, seed):
    """Return logits whose largest is often that of the true class."""
    noises = np.random.default_rng(seed).normal(0, noise, size=(len(labels), 10))
    return (3 * (np.eye(10)[labels] + noises)).astype(np.float32)


def log_loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


def test_probabilities_are_the_softmax_at_a_temperature():
    logits = random_predictions(range(5)).logits
    probabilities = to_probabilities(logits, 2.0)

    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities, softmax(logits / 2), atol=1e-6)
    assert np.allclose(to_probabilities(logits), softmax(logits), atol=1e-6)
    assert np.isfinite(to_probabilities(1e4 * logits)).all()


def test_probabilities_are_the_weighted_mean_of_calibrated_members():
    one, other = random_predictions([1, 2]), random_predictions([1, 2])
    expected = 0.75 * softmax(one.logits / 0.5) + 0.25 * softmax(other.logits / 2)

    for members in ([("a", one), ("b", other)], [("b", other), ("a", one)]):
        ids, probabilities = ENSEMBLE.probabilities(members)
        assert ids.tolist() == [1, 2]
        assert probabilities.dtype == np.float32
        assert np.allclose(probabilities, expected, atol=1e-6)


def test_several_folds_of_a_member_share_its_weight():
    folds = {name: [random_predictions([1, 2]) for _ in range(3)] for name in "ab"}
    _, probabilities = ENSEMBLE.probabilities((name, part) for name in "ab" for part in folds[name])
    expected = sum(
        ENSEMBLE.weights[name] * softmax(part.logits / ENSEMBLE.temperatures[name]) / 3
        for name in "ab"
        for part in folds[name]
    )

    assert np.allclose(probabilities, expected, atol=1e-6)


def test_some_of_the_members_are_averaged_with_weights_that_sum_to_one():
    only = random_predictions([1, 2])

    assert np.allclose(ENSEMBLE.probabilities([("b", only)])[1], softmax(only.logits / 2), atol=1e-6)


def test_combined_predictions_are_the_logarithms_of_the_probabilities():
    members = {"a": random_predictions([3, 7]), "b": random_predictions([3, 7])}
    combined = ENSEMBLE.combine(members.items())

    assert combined.ids.tolist() == [3, 7]
    assert combined.logits.dtype == np.float32
    assert np.allclose(to_probabilities(combined.logits), ENSEMBLE.probabilities(members.items())[1], atol=1e-6)


def test_combined_logits_of_a_probability_of_zero_are_finite():
    certain = Predictions(np.array([1]), np.array([[1000.0, -1000.0]], np.float32))
    ensemble = Ensemble({"a": 1.0}, {"a": 1.0})

    assert ensemble.probabilities([("a", certain)])[1].tolist() == [[1.0, 0.0]]
    assert np.isfinite(ensemble.combine([("a", certain)]).logits).all()


@pytest.mark.parametrize("combine", [ENSEMBLE.probabilities, ENSEMBLE.combine])
def test_predictions_that_do_not_match_are_rejected(combine):
    with pytest.raises(ValueError, match="different ids"):
        combine([("a", random_predictions([1, 2])), ("b", random_predictions([1, 3]))])
    with pytest.raises(ValueError, match="different ids"):
        combine([("a", random_predictions([1, 2])), ("b", random_predictions([1, 2, 3]))])
    with pytest.raises(ValueError, match="no predictions"):
        combine([])
    with pytest.raises(KeyError, match="unknown"):
        combine([("unknown", random_predictions([1, 2]))])


def test_mean_of_250_predictions_needs_the_memory_of_a_few():
    """50 members on five folds, of which one at a time is added."""
    ids = np.arange(20_000)
    size = random_predictions(ids).logits.nbytes
    ensemble = Ensemble({"a": 1.0}, {"a": 1.0})
    tracemalloc.start()
    _, probabilities = ensemble.probabilities(("a", random_predictions(ids)) for _ in range(250))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert peak < 12 * size


def test_predictions_are_consumed_one_at_a_time():
    references, num_alive = [], []

    def members():
        for _ in range(20):
            predictions = random_predictions([1, 2])
            references.append(weakref.ref(predictions))
            num_alive.append(sum(reference() is not None for reference in references))
            yield "a", predictions

    ENSEMBLE.probabilities(members())

    assert len(num_alive) == 20
    assert max(num_alive) <= 2


def test_uncalibrated_ensemble_keeps_the_weights():
    one, other = random_predictions([1, 2]), random_predictions([1, 2])
    uncalibrated = ENSEMBLE.uncalibrated()
    expected = 0.75 * softmax(one.logits) + 0.25 * softmax(other.logits)

    assert uncalibrated == Ensemble({"a": 1.0, "b": 1.0}, {"a": 0.75, "b": 0.25})
    assert np.allclose(uncalibrated.probabilities([("a", one), ("b", other)])[1], expected, atol=1e-6)
    assert ENSEMBLE.temperatures == {"a": 0.5, "b": 2.0}


def test_saved_ensemble_combines_to_the_same_bytes():
    labels = np.arange(500) % 10
    members = {"a": noisy_logits(labels, 0.4, 1), "b": noisy_logits(labels, 0.5, 2)}
    ensemble = Ensemble.fit(members, labels)
    loaded = Ensemble.from_json(json.loads(json.dumps(ensemble.to_json())))
    predictions = [(name, Predictions(np.arange(500), logits)) for name, logits in members.items()]

    assert loaded == ensemble
    assert loaded.combine(predictions).logits.tobytes() == ensemble.combine(predictions).logits.tobytes()


def test_mean_of_logits_is_a_weighted_geometric_mean():
    one, other = random_predictions([1, 2]), random_predictions([1, 2])
    powers = softmax(one.logits) ** 0.75 * softmax(other.logits) ** 0.25
    mean = mean_logits([one, other], [3, 1])

    assert mean.logits.dtype == np.float32
    assert np.allclose(mean.logits, 0.75 * one.logits + 0.25 * other.logits, atol=1e-6)
    assert np.allclose(to_probabilities(mean.logits), powers / powers.sum(1, keepdims=True), atol=1e-6)
    assert mean_logits([one], [0.25]) is one


def test_logits_of_different_ids_are_not_averaged():
    with pytest.raises(ValueError, match="different ids"):
        mean_logits([random_predictions([1, 2]), random_predictions([1, 3])], [1, 1])


def test_mean_of_logits_with_a_probability_of_zero_is_finite():
    certain, uncertain = (
        Predictions.from_probabilities(np.array([1]), np.array([[p, 1 - p]], np.float32)) for p in (1.0, 0.5)
    )

    assert np.isfinite(to_probabilities(mean_logits([certain, uncertain], [1, 1]).logits)).all()


def test_fitted_weights_reach_the_least_log_loss_of_a_grid():
    labels = np.arange(2000) % 10
    logits = {
        "good": noisy_logits(labels, 0.4, 1),
        "fair": noisy_logits(labels, 0.5, 2),
        "bad": noisy_logits(labels, 3, 3),
    }
    members = {name: to_probabilities(values) for name, values in logits.items()}
    weights = fit_weights(members, labels)
    loss = log_loss(sum(weights[name] * members[name] for name in members), labels)
    grid = min(
        log_loss(a * members["good"] + b * members["fair"] + (1 - a - b) * members["bad"], labels)
        for a in np.linspace(0, 1, 21)
        for b in np.linspace(0, 1 - a, 21)
    )

    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0
    assert weights["good"] > weights["fair"] > weights["bad"]
    assert loss <= grid + 1e-5


def test_one_member_gets_the_whole_weight():
    labels = np.arange(10)
    logits = noisy_logits(labels, 1, 1)

    assert fit_weights({"only": to_probabilities(logits)}, labels) == {"only": 1.0}
    assert Ensemble.fit({"only": logits}, labels).weights == {"only": 1.0}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_fitted_temperature_undoes_a_known_one(temperature):
    """The labels are sampled from the probabilities, which are thus calibrated; their logits are then scaled."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, size=(20_000, 10))
    calibrated = softmax(logits)
    labels = (calibrated.cumsum(1) > rng.random((len(calibrated), 1))).argmax(1)
    scaled = (temperature * logits).astype(np.float32)

    assert fit_temperature(scaled, labels) == pytest.approx(temperature, rel=0.05)
    assert np.allclose(to_probabilities(scaled, temperature), calibrated, atol=1e-5)
    assert np.array_equal(to_probabilities(scaled).argmax(1), calibrated.argmax(1))


def test_fit_calibrates_an_underconfident_member_before_it_weights_it():
    """By raw log loss the better member gets the smaller weight, because its probabilities are flat."""
    labels = np.arange(2000) % 10
    members = {"underconfident": noisy_logits(labels, 0.4, 1) / 8, "confident": noisy_logits(labels, 0.7, 2)}
    raw = fit_weights({name: to_probabilities(logits) for name, logits in members.items()}, labels)
    ensemble = Ensemble.fit(members, labels)

    assert raw["underconfident"] < 0.5
    assert ensemble.weights["underconfident"] > 0.5
    assert ensemble.temperatures == {name: fit_temperature(logits, labels) for name, logits in members.items()}
    assert ensemble.temperatures["underconfident"] < 1
