import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Config
from pipeline.ensemble import Ensemble
from pipeline.errors import RunError
from pipeline.evaluate import (
    compare_runs,
    evaluate,
    load_ensemble_predictions,
    load_fold_predictions,
    score_test_images,
)
from pipeline.learning.flops import prediction_flops, training_flops
from pipeline.learning.metrics import accuracy_interval, score
from pipeline.predictions import Predictions
from pipeline.results import EnsembleMetrics, FoldCompute
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import RunFolder
from pipeline.task import CIFAR10, Labels
from pipeline.temperature_scaling import to_probabilities

NUM_IMAGES = 60
TASK = replace(CIFAR10, class_names=("a", "b", "c"))
IDS = 10 * np.arange(1, NUM_IMAGES + 1)
LABELS = np.arange(NUM_IMAGES) % 3
TABLE = FoldTable(IDS, LABELS, np.arange(NUM_IMAGES) // 3 % 2, np.arange(NUM_IMAGES))
CONFIG = Config.model_validate(
    {
        "members": {
            "good": {"model": {"name": "tutorial_cnn"}, "train": {"epochs": 2}},
            "fair": {"model": {"name": "tutorial_cnn"}, "train": {"epochs": 2}},
        },
        "folds": {"num_folds": 2},
    }
)
NOISE = {"good": 0.5, "fair": 1.0}
HISTORY = [
    {"epoch": epoch, "loss": 1.0, "accuracy": 0.5, "lr_sgd": 0.1, "seconds": 1.5, "images_per_second": 20.0}
    for epoch in (1, 2)
]


def out_of_fold_logits(member, table=TABLE):
    """Return logits [N, classes] in the order of the table."""
    noise = np.random.default_rng(len(member)).normal(0, NOISE[member], size=(len(table.ids), 3))
    return (2 * (np.eye(3)[table.labels] + noise)).astype(np.float32)


def fold_predictions(member, fold, table=TABLE):
    rows = table.is_validation(fold)
    return Predictions(table.ids[rows], out_of_fold_logits(member, table)[rows])


def make_run(folder, name="run", *, config=CONFIG, table=TABLE, untrained=()):
    """Return a run whose folds are finished but for some (member, fold)."""
    run = RunFolder(folder, name)
    run.create_or_verify(config, {}, {})
    run.save_folds(table)
    for member in config.members:
        for fold in {0, 1} - {fold for untrained_member, fold in untrained if untrained_member == member}:
            run.fold(member, fold).finish(HISTORY, {}, fold_predictions(member, fold, table))
    return run


def evaluate_run(run, config=CONFIG):
    return evaluate(run, config, TASK, run.folds(), load_fold_predictions(run, config))


def test_folds_members_and_ensemble_are_scored_out_of_fold(tmp_path):
    evaluation = evaluate_run(make_run(tmp_path))
    metrics, logits = evaluation.metrics, {name: out_of_fold_logits(name) for name in NOISE}

    assert metrics.untrained_folds == []
    for name, member in metrics.members.items():
        assert member.out_of_fold == score(to_probabilities(logits[name]), LABELS)
        for fold, scores in member.folds.items():
            rows = TABLE.is_validation(fold)
            assert scores == score(to_probabilities(logits[name][rows]), LABELS[rows])
            assert scores.num_images == 30
    assert list(metrics.members) == ["good", "fair"]
    assert list(metrics.members["good"].folds) == [0, 1]

    probabilities = to_probabilities(evaluation.ensemble_predictions.logits)
    assert evaluation.ensemble == Ensemble.fit(logits, LABELS)
    assert metrics.ensemble.scores == score(probabilities, LABELS)
    assert metrics.ensemble.scores.log_loss < min(m.out_of_fold.log_loss for m in metrics.members.values())
    assert metrics.ensemble.weights["good"] > metrics.ensemble.weights["fair"]


def test_out_of_fold_predictions_are_joined_by_id(tmp_path):
    evaluation = evaluate_run(make_run(tmp_path))
    members = [(name, Predictions(IDS, out_of_fold_logits(name))) for name in NOISE]

    assert evaluation.ensemble_predictions.ids.tolist() == IDS.tolist()
    assert np.array_equal(evaluation.ensemble_predictions.logits, evaluation.ensemble.combine(members).logits)
    for name, predictions in members:
        assert evaluation.member_predictions[name].ids.tolist() == IDS.tolist()
        assert np.array_equal(evaluation.member_predictions[name].logits, predictions.logits)


def test_ensemble_metrics_have_recall_and_confusion_matrix(tmp_path):
    evaluation = evaluate_run(make_run(tmp_path))
    predicted, matrix = evaluation.ensemble_predictions.labels, np.zeros((3, 3), int)
    np.add.at(matrix, (LABELS, predicted), 1)
    per_class = evaluation.metrics.ensemble.per_class

    assert isinstance(evaluation.metrics.ensemble, EnsembleMetrics)
    assert evaluation.metrics.ensemble.confusion_matrix == matrix.tolist()
    assert list(per_class) == ["a", "b", "c"]
    for index, scores in enumerate(per_class.values()):
        assert scores.num_images == 20
        assert scores.accuracy == matrix[index, index] / 20
        assert scores.accuracy_ci95 == accuracy_interval(matrix[index, index], 20)


def test_compute_of_a_member_is_that_of_its_trained_folds(tmp_path):
    metrics = evaluate_run(make_run(tmp_path, untrained=[("fair", 1)])).metrics
    good, fair = metrics.members["good"].compute, metrics.members["fair"].compute
    member = CONFIG.members["good"]

    assert (good.training_seconds, fair.training_seconds) == (6.0, 3.0)
    assert good.training_flops == 2 * training_flops(member, TASK, 30)
    assert fair.training_flops == training_flops(member, TASK, 30)
    assert good.prediction_flops_per_image == prediction_flops(member, TASK, "flip")


def test_recorded_compute_of_a_fold_is_not_counted_again(tmp_path):
    run = make_run(tmp_path)
    run.fold("good", 0).save_compute(FoldCompute(training_flops=5.0, prediction_flops_per_image=7.0))
    compute = evaluate_run(run).metrics.members["good"].compute

    assert compute.training_flops == 5.0 + training_flops(CONFIG.members["good"], TASK, 30)
    assert compute.prediction_flops_per_image == 7.0


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_unreadable_compute_of_a_fold_is_counted_again(tmp_path, content):
    run = make_run(tmp_path)
    (run.fold("good", 0).path / "compute.json").write_text(content)

    assert evaluate_run(run).metrics == evaluate_run(make_run(tmp_path / "other")).metrics


def test_metrics_and_ensemble_are_saved(tmp_path):
    run = make_run(tmp_path)
    evaluation = evaluate_run(run)

    assert run.metrics() == evaluation.metrics
    assert json.loads((run.path / "ensemble.json").read_text()) == evaluation.ensemble.to_json()
    assert Ensemble.from_json(run.load_json("ensemble.json")) == evaluation.ensemble


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '"x"', '{"temperatures": {"good": 1}, "weights": {}}', '{"temperatures": {}, "weights": {}}'],
)
def test_other_content_of_ensemble_json_is_an_error_that_names_the_command(tmp_path, text):
    run = make_run(tmp_path)
    evaluate_run(run)
    (run.path / "ensemble.json").write_text(text)

    with pytest.raises(RunError, match=r"ensemble\.json .*python run\.py validate --run \w+ writes it again"):
        load_ensemble_predictions(run)


def test_ensemble_waits_for_missing_folds(tmp_path):
    run = make_run(tmp_path, untrained=[("fair", 0)])
    evaluation = evaluate_run(run)

    assert evaluation.metrics.untrained_folds == ["fair fold 0"]
    assert list(evaluation.metrics.members["fair"].folds) == [1]
    assert evaluation.metrics.members["fair"].out_of_fold is None
    assert evaluation.metrics.members["good"].out_of_fold is not None
    assert list(evaluation.member_predictions) == ["good"]
    assert (evaluation.ensemble, evaluation.ensemble_predictions, evaluation.metrics.ensemble) == (None, None, None)
    assert run.metrics() == evaluation.metrics
    assert not (run.path / "ensemble.json").exists()


def test_corrupted_fold_is_missing_and_its_file_is_named(tmp_path):
    run = make_run(tmp_path)
    (run.fold("good", 1).path / "weights.safetensors").write_bytes(b"corrupted")
    evaluation = evaluate_run(run)

    assert evaluation.metrics.untrained_folds == ["good fold 1 (weights.safetensors is corrupted or missing)"]
    assert evaluation.ensemble is None


def test_run_without_a_trained_fold_has_no_scores(tmp_path):
    untrained = [(name, fold) for name in NOISE for fold in (0, 1)]
    metrics = evaluate_run(make_run(tmp_path, untrained=untrained)).metrics

    assert metrics.untrained_folds == ["good fold 0", "good fold 1", "fair fold 0", "fair fold 1"]
    assert metrics.members["good"].folds == {}
    assert metrics.members["good"].compute.training_flops == 0


def test_predictions_of_an_evaluated_run_are_loaded_to_the_same_bytes(tmp_path):
    run = make_run(tmp_path)
    combined = evaluate_run(run).ensemble_predictions
    loaded = load_ensemble_predictions(run)

    assert loaded.ids.tolist() == combined.ids.tolist()
    assert loaded.logits.tobytes() == combined.logits.tobytes()


def test_run_that_is_not_evaluated_has_no_combined_predictions(tmp_path):
    with pytest.raises(RunError, match=r"^the run run has no ensemble yet: train all its folds \(python run\.py train"):
        load_ensemble_predictions(make_run(tmp_path))


def test_comparison_with_a_missing_run_lists_the_existing_runs(tmp_path):
    run = make_run(tmp_path)
    evaluate_run(run)

    with pytest.raises(RunError, match=r"^there is no run nothing in .*; existing runs: run$"):
        compare_runs(run, RunFolder(tmp_path, "nothing"))


def test_runs_are_compared_on_their_common_images(tmp_path):
    fewer = FoldTable(*(column[:45] for column in (TABLE.ids, TABLE.labels, TABLE.folds, TABLE.groups)))
    only_fair = CONFIG.model_copy(update={"members": {"fair": CONFIG.members["fair"]}, "seed": 7})
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second", config=only_fair, table=fewer)
    combined = evaluate_run(first).ensemble_predictions, evaluate_run(second, only_fair).ensemble_predictions
    comparison = compare_runs(first, second)
    correct = [predictions.labels[:45] == LABELS[:45] for predictions in combined]

    assert "seed: 0 -> 7" in comparison.config
    assert any(line.startswith("members.good.model.name: tutorial_cnn -> not set") for line in comparison.config)
    assert not any("members.fair" in line for line in comparison.config)
    assert [scores.num_images for scores in comparison.scores] == [45, 45]
    assert [scores.accuracy for scores in comparison.scores] == [part.mean() for part in correct]
    assert comparison.test.num_images == 45
    assert comparison.test.only_first == (correct[0] & ~correct[1]).sum()
    assert comparison.test.only_second == (~correct[0] & correct[1]).sum()
    assert comparison.test.only_first > comparison.test.only_second


@pytest.mark.parametrize(
    "other",
    [replace(TABLE, labels=(LABELS + 1) % 3), replace(TABLE, ids=IDS + 1)],
    ids=["other labels", "no common image"],
)
def test_runs_on_other_labelled_images_are_not_compared(tmp_path, other):
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second", table=other)
    evaluate_run(first)
    evaluate_run(second)

    with pytest.raises(RunError, match="first and second can't be compared: they have no images in common"):
        compare_runs(first, second)


def test_only_test_images_with_a_label_are_scored():
    predictions = Predictions(IDS, out_of_fold_logits("good"))
    labelled = Labels(IDS[::4], LABELS[::4])
    scores = score_test_images(predictions, labelled)

    assert scores == score(to_probabilities(predictions.logits[::4]), labelled.labels)
    assert scores.num_images == 15
