import numpy as np
import pytest

from pipeline.learning.exit_rule import (
    DROP_PER_CHANGE,
    fit_exit_thresholds,
    importance_weights,
    margins,
    needs_more_models,
    num_forward_passes,
    plan_full_ensemble,
    plan_stages,
)
from pipeline.learning.predict import tta_views


def probabilities(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize("tta", ["none", "flip", "flip_translate"])
@pytest.mark.parametrize("num_models", [1, 2, 3, 5, 10])
def test_stages_contain_every_model_with_every_tta_view_once(num_models, tta):
    cascade, full = (
        [(model_pass.model, view) for stage in stages for model_pass in stage for view in model_pass.views]
        for stages in (plan_stages(num_models, tta), plan_full_ensemble(num_models, tta))
    )

    assert len(cascade) == len(set(cascade)) == num_models * len(tta_views(tta))
    assert set(cascade) == set(full)


def test_each_stage_adds_one_tta_view_while_models_double_and_the_last_adds_the_other_views():
    stages = plan_stages(5, "flip_translate")
    models = [[model_pass.model for model_pass in stage] for stage in stages]

    assert models == [[0], [0], [1], [1], [2, 3], [2, 3], [4], [4], [0, 1, 2, 3, 4]]
    assert [num_forward_passes(stage) for stage in stages] == [1, 1, 1, 1, 2, 2, 1, 1, 20]


def test_images_exit_if_their_prediction_does_not_change():
    final = probabilities([0.9, 0.1], [0.2, 0.8], [0.6, 0.4])
    early = probabilities([0.99, 0.01], [0.6, 0.4], [0.8, 0.2])
    thresholds = fit_exit_thresholds([early, final], DROP_PER_CHANGE / 3, np.ones(3))

    assert margins(early) == pytest.approx([0.98, 0.2, 0.6])
    assert 0.2 < thresholds.thresholds[0] <= 0.6
    assert needs_more_models(early, thresholds.thresholds[0], 3).tolist() == [False, True, False]


def test_expected_drop_is_a_third_of_the_share_of_changed_predictions_plus_one():
    final = probabilities([0.45, 0.55], [0.9, 0.1])
    early = probabilities([0.7, 0.3], [0.8, 0.2])
    thresholds = fit_exit_thresholds([early, final], 0.34, np.array([1.0, 1.0]))

    assert thresholds.thresholds == (0.0,)
    assert thresholds.expected_accuracy_drop == pytest.approx((1 + 1) / 2 / 3)
    assert fit_exit_thresholds([early, final], 0.33, np.array([1.0, 1.0])).expected_accuracy_drop == pytest.approx(
        1 / 6
    )
    assert fit_exit_thresholds([early, final], 0.33, np.array([1.0, 3.0])).expected_accuracy_drop == pytest.approx(
        (1 / 4 + 1 / 2) / 3
    )


def test_nothing_exits_if_a_single_change_would_cost_more_than_the_allowed_drop():
    after = probabilities([0.99, 0.01], [0.2, 0.8])
    thresholds = fit_exit_thresholds([after, after, after], 0.0, np.ones(2))

    assert thresholds.expected_accuracy_drop == 0
    assert needs_more_models(probabilities([1.0, 0.0]), thresholds.thresholds[0], 1).tolist() == [True]


def test_larger_accuracy_drop_allows_more_early_exits():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(10, size=3000), rng.normal(0, 1, size=(4, 3000, 10))
    logits = 3 * np.eye(10)[labels] + np.cumsum(logits, 0) / np.arange(1, 5)[:, None, None]
    exps = np.exp(logits)
    after_stages = list((exps / exps.sum(2, keepdims=True)).astype(np.float32))
    active_after_first = []
    for max_drop in (0.0, 0.0005, 0.005, 0.05):
        thresholds = fit_exit_thresholds(after_stages, max_drop, np.ones(3000))
        predicted, rows = np.empty_like(after_stages[0]), np.arange(3000)
        for stage, after in enumerate(after_stages):
            predicted[rows] = after[rows]
            if stage < 3:
                rows = rows[needs_more_models(after[rows], thresholds.thresholds[stage], 3000)]
                active_after_first.append(len(rows)) if stage == 0 else None
        num_changed = (after_stages[-1].argmax(1) != predicted.argmax(1)).sum()
        expected = DROP_PER_CHANGE * (num_changed + 1) / 3000 if max_drop else 0
        assert thresholds.expected_accuracy_drop == pytest.approx(expected)
        assert expected <= max_drop

    assert active_after_first == sorted(active_after_first, reverse=True)
    assert active_after_first[0] > 2 * active_after_first[-1]


def test_importance_weights_give_the_calibration_sample_the_validation_distribution():
    rng = np.random.default_rng(0)
    validation, calibration = rng.beta(5, 1, 5000), rng.beta(1, 1, 2000)
    weights = importance_weights(validation, calibration)

    assert np.average(calibration, weights=weights) == pytest.approx(validation.mean(), abs=0.03)
    assert importance_weights(validation, validation) == pytest.approx(np.ones(5000), abs=0.01)


def test_compute_budget_keeps_the_smallest_margins():
    after = probabilities([0.6, 0.4], [0.9, 0.1], [0.51, 0.49], [0.7, 0.3])

    assert needs_more_models(after, 0.5, 4).tolist() == [True, False, True, True]
    assert needs_more_models(after, 0.5, 2).tolist() == [True, False, True, False]
    assert needs_more_models(after, 0.5, 0).tolist() == [False] * 4
