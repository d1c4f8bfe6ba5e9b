from dataclasses import replace

import pytest

from pipeline.report.page import render
from pipeline.report.tune_page import search_page
from pipeline.tuning.results import SearchResult, TrialResult, TrialScores, expected_maximum, format_values, short_names
from pipeline.tuning.summary import format_search

KEY = "members.net.train.optimizer.lr"


def trial(number, objective=None, state="complete", trained=4):
    scores = None
    if objective is not None:
        scores = TrialScores(
            num_images=10_000,
            accuracy=objective,
            accuracy_ci95=(objective - 0.01, objective + 0.01),
            log_loss=objective,
            log_loss_ci95=(objective - 0.0392, objective + 0.0392),
        )
    curve = {epoch: 0.1 * epoch for epoch in range(1, trained + 1)}
    return TrialResult(number, state, {KEY: 0.1 * (number + 1)}, curve, 4, trained, objective, scores)


def search(*trials, objective="accuracy", **changes):
    values = {
        "name": "mine_tune",
        "member": "net",
        "objective": objective,
        "folds": (0,),
        "keys": [KEY],
        "trials": trials,
        "importance": {KEY: 1.0},
        "evaluation_command": "python run.py train --config submissions/mine_tune/best.yaml",
    }
    return SearchResult(**(values | changes))


@pytest.mark.parametrize(("num_draws", "expected"), [(1, 0.0), (2, 0.5642), (10, 1.5388), (100, 2.5076)])
def test_expected_maximum_of_normal_draws(num_draws, expected):
    assert expected_maximum(num_draws) == pytest.approx(expected, abs=1e-4)


def test_best_trial_comes_first():
    result = search(trial(0, 0.5), trial(1, 0.7), trial(2, state="pruned", trained=1), trial(3, 0.6), trial(4, 0.7))

    assert [each.number for each in result.ranked] == [1, 4, 3, 0]
    assert result.interval(result.ranked[0]) == pytest.approx((0.69, 0.71))


def test_smallest_log_loss_comes_first():
    result = search(trial(0, 0.5), trial(1, 0.7), objective="log_loss")

    assert [each.number for each in result.ranked] == [0, 1]
    assert result.interval(result.ranked[0]) == pytest.approx((0.4608, 0.5392))
    assert result.gain.standard_error == pytest.approx(0.02)


def test_gain_is_compared_with_the_expected_maximum_of_equal_trials():
    gain = search(trial(0, 0.5), trial(1, 0.7), trial(2, 0.5)).gain

    assert (gain.best, gain.median, gain.num_trials) == (0.7, 0.5, 3)
    assert gain.standard_error == pytest.approx((0.5 * 0.5 / 10_000) ** 0.5)
    assert gain.chance == pytest.approx(0.8463 * 0.005, rel=1e-3)
    assert search(trial(0, 0.5)).gain is None


def test_pruning_saves_the_epochs_that_were_not_trained():
    result = search(
        trial(0, 0.5), trial(1, state="pruned", trained=1), trial(2, state="failed"), trial(3, state="running")
    )

    assert result.epochs_saved == (3, 8)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a.optimizer.lr", "a.optimizer.muon.lr", "a.epochs"], ["optimizer.lr", "muon.lr", "epochs"]),
        (["lr", "a.lr"], ["lr", "a.lr"]),
        (["a.b"], ["b"]),
    ],
)
def test_short_names_tell_keys_apart(keys, expected):
    assert short_names(keys) == expected


def test_values_are_formatted_on_one_line():
    assert format_values({"a.lr": 0.123456, "a.widths": [4, 8], "a.name": "x"}) == "lr 0.1235, widths [4, 8], name x"


def test_search_is_printed():
    text = format_search(search(trial(0, 0.5), trial(1, 0.7), trial(2, state="pruned", trained=1)))

    assert text.splitlines() == [
        "search mine_tune: 3 trials of net on fold 0 (2 complete, 1 pruned)",
        "trial  accuracy           95 % CI  epochs   lr",
        "    1    0.7000  0.6900 to 0.7100       4  0.2",
        "    0    0.5000  0.4900 to 0.5100       4  0.1",
        "importance: lr 1.00",
        "pruning saved 3 of 12 epochs (25%)",
        "best accuracy 0.7000, median 0.6000: a gain of 0.1000. Chance alone would give up to 0.0028: the expected "
        "maximum of 2 normal draws with the standard error of one trial, 0.0050; less where trials err on the same "
        "images",
        "The best trial was chosen by its score on fold 0, so this score is optimistic. Score its config on the folds "
        "that no trial has used:",
        "  python run.py train --config submissions/mine_tune/best.yaml",
    ]


@pytest.mark.parametrize(
    ("objectives", "objective", "text"),
    [
        ((0.5, 0.7), "accuracy", "accuracy 0.5000, 0.2000 below the best"),
        ((0.7, 0.5), "log_loss", "log loss 0.7000, 0.2000 above the best"),
        ((0.7, 0.5), "accuracy", "accuracy 0.7000, none is better"),
    ],
)
def test_best_trial_is_compared_with_the_config(objectives, objective, text):
    config, other = trial(0, objectives[0]), trial(1, objectives[1])
    result = search(replace(config, is_config=True), other, objective=objective)

    assert f"trial 0 has the config's own values: {text}" in format_search(result).splitlines()
    assert "gain over the config" in render(search_page(result))


def test_search_without_a_complete_trial_is_printed():
    text = format_search(search(trial(0, state="failed"), importance={}))

    assert text.splitlines() == ["search mine_tune: 1 trial of net on fold 0 (1 failed)", "no trial is complete yet"]


def test_search_on_all_folds_has_no_unbiased_score():
    text = format_search(search(trial(0, 0.5), folds=(0, 1), evaluation_command=""))

    assert "score on folds 0, 1, so this score is optimistic. The trials use all folds" in text


def test_report_escapes_the_texts_of_a_search():
    hostile = "<script>$x$"
    trials = [replace(trial(number, 0.5 + number / 10), values={KEY: hostile}) for number in range(2)]
    failed = replace(trial(2, state="failed"), values={}, reason=hostile)
    page = render(search_page(search(*trials, failed, name=hostile)))

    assert "<script>$x$" not in page
    assert "&lt;script&gt;$x$" in page
    assert page.count("<svg") == 4
