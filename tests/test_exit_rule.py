import numpy as np
import pytest

from pipeline.learning.predict import tta_views
from pipeline.learning.exit_rule import (
    fit_exit_thresholds,
    margins,
    num_passes,
    plan_full_ensemble,
    plan_stages,
    needs_more_models,
    importance_weights,
)


def probabilities(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize("views", ["identity", "mirror", "mirror_shift"])
@pytest.mark.parametrize("num_nets", [1, 2, 3, 5, 10])
def test_the_rounds_ask_every_net_once_for_every_view(num_nets, views):
    asked = [(ask.net, view) for asked in plan_stages(num_nets, views) for ask in asked for view in ask.views]
    everything = [(ask.net, view) for asked in plan_full_ensemble(num_nets, views) for ask in asked for view in ask.views]

    assert len(asked) == len(set(asked)) == num_nets * len(tta_views(views))
    assert set(asked) == set(everything)


def test_each_round_doubles_the_nets_and_the_last_asks_for_the_other_views():
    rounds = plan_stages(5, "mirror_shift")

    assert [[ask.net for ask in asked] for asked in rounds] == [[0], [1], [2, 3], [4], [0, 1, 2, 3, 4]]
    assert [num_passes(asked) for asked in rounds] == [2, 2, 4, 2, 20]


def test_an_image_stops_where_nothing_can_change():
    final = probabilities([0.9, 0.1], [0.2, 0.8], [0.6, 0.4])
    early = probabilities([0.99, 0.01], [0.6, 0.4], [0.8, 0.2])
    rule = fit_exit_thresholds([early, final], 0.0, np.ones(3))

    assert margins(early) == pytest.approx([0.98, 0.2, 0.6])
    assert 0.2 < rule.margins[0] <= 0.6
    assert rule.expected_loss == 0
    assert needs_more_models(early, rule.margins[0], 3).tolist() == [False, True, False]


def test_the_loss_is_what_the_final_answer_gives_the_best_class_more():
    final = probabilities([0.45, 0.55], [0.9, 0.1])
    early = probabilities([0.7, 0.3], [0.8, 0.2])
    rule = fit_exit_thresholds([early, final], 0.06, np.array([1.0, 1.0]))

    assert rule.margins == (0.0,)
    assert rule.expected_loss == pytest.approx(0.05)
    assert fit_exit_thresholds([early, final], 0.04, np.array([1.0, 1.0])).expected_loss == 0
    assert fit_exit_thresholds([early, final], 0.04, np.array([1.0, 3.0])).expected_loss == pytest.approx(0.025)


def test_more_may_be_lost_by_asking_less():
    rng = np.random.default_rng(0)
    classes, logits = rng.integers(10, size=3000), rng.normal(0, 1, size=(4, 3000, 10))
    logits = 3 * np.eye(10)[classes] + np.cumsum(logits, 0) / np.arange(1, 5)[:, None, None]
    powers = np.exp(logits)
    after = list((powers / powers.sum(2, keepdims=True)).astype(np.float32))
    open_after_first = []
    for max_loss in (0.0, 0.0005, 0.005, 0.05):
        rule = fit_exit_thresholds(after, max_loss, np.ones(3000))
        answers, rows = np.empty_like(after[0]), np.arange(3000)
        for number, said in enumerate(after):
            answers[rows] = said[rows]
            if number < 3:
                rows = rows[needs_more_models(said[rows], rule.margins[number], 3000)]
                open_after_first.append(len(rows)) if number == 0 else None
        lost = (after[-1].max(1) - after[-1][np.arange(3000), answers.argmax(1)]).mean()
        assert lost == pytest.approx(rule.expected_loss, abs=1e-6)
        assert lost <= max_loss + 1e-9

    assert open_after_first == sorted(open_after_first, reverse=True)
    assert open_after_first[0] > 2 * open_after_first[-1]


def test_a_sample_of_harder_images_is_weighted_like_the_held_out_ones():
    rng = np.random.default_rng(0)
    held_out, sample = rng.beta(5, 1, 5000), rng.beta(1, 1, 2000)
    weights = importance_weights(held_out, sample)

    assert np.average(sample, weights=weights) == pytest.approx(held_out.mean(), abs=0.03)
    assert importance_weights(held_out, held_out) == pytest.approx(np.ones(5000), abs=0.01)


def test_the_cap_keeps_the_least_certain():
    said = probabilities([0.6, 0.4], [0.9, 0.1], [0.51, 0.49], [0.7, 0.3])

    assert needs_more_models(said, 0.5, 4).tolist() == [True, False, True, True]
    assert needs_more_models(said, 0.5, 2).tolist() == [True, False, True, False]
    assert needs_more_models(said, 0.5, 0).tolist() == [False] * 4
