import base64
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import ROOT

from pipeline import predictions, results
from pipeline.config import Config, RefitConfig
from pipeline.ensemble import Ensemble
from pipeline.errors import RunError
from pipeline.evaluate import Evaluation
from pipeline.learning.metrics import confusion, score, score_classes
from pipeline.ledger import RunRow, Upload
from pipeline.predictions import Predictions
from pipeline.report import figures, galleries, scores
from pipeline.report.blocks import (
    CaptionedImage,
    Code,
    Figure,
    Gallery,
    ImageTable,
    Matrix,
    Number,
    Page,
    Section,
    Stat,
    Table,
    Text,
)
from pipeline.report.confusion_matrix import confusion_matrix_section
from pipeline.report.images import as_data_uri
from pipeline.report.overview import all_runs_page
from pipeline.report.page import render
from pipeline.report.run_data import RunData, collect
from pipeline.report.run_page import headline, reproduce_section, run_page
from pipeline.runs.fold_table import FoldTable
from pipeline.task import CIFAR10, Task
from pipeline.temperature_scaling import to_probabilities

N, NUM_TEST = 300, 80
EPOCHS = [
    {"epoch": e, "loss": 2.0 / e, "accuracy": 0.3 * e, "lr_sgd": 0.1, "seconds": 10.0, "images_per_second": 20.0}
    for e in (1.0, 2.0)
]
HOSTILE = "<script>window.hacked = 1</script>"
WEEKDAYS = Task(
    competition="weekdays",
    class_names=("mon", "tue", "wed"),
    image_shape=(48, 48, 3),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    num_test=NUM_TEST,
    num_scored_test=50,
    zip_name="weekdays.zip",
    train_labels_csv="labels.csv",
    sample_submission_csv="sample.csv",
)


def make_logits(labels, share_correct, seed, num_classes):
    """Logits whose largest value is that of the label for a share of the images."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), num_classes))
    correct = rng.random(len(labels)) < share_correct
    logits[np.arange(len(labels)), np.where(correct, labels, rng.integers(num_classes, size=len(labels)))] += 4
    return logits.astype(np.float32)


def smooth_images(number, seed, size=32):
    coarse = np.random.default_rng(seed).integers(0, 256, (number, 4, 4, 3), np.uint8)
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse])


def make_evaluation(task, table, members):
    ensemble = Ensemble({"good": 0.5, "fair": 1.0}, {"good": 0.75, "fair": 0.25})
    combined = ensemble.combine(members.items())
    probabilities = to_probabilities(combined.logits)
    matrix = confusion(probabilities, table.labels)
    compute = results.Compute(training_flops=3e12, training_seconds=60.0, prediction_flops_per_image=1e6)
    member_metrics = {}
    for name, member in members.items():
        p = to_probabilities(member.logits)
        folds = {fold: score(p[table.folds == fold], table.labels[table.folds == fold]) for fold in range(3)}
        member_metrics[name] = results.MemberMetrics(folds=folds, compute=compute, out_of_fold=score(p, table.labels))
    ensemble_metrics = results.EnsembleMetrics(
        temperatures=ensemble.temperatures,
        weights=ensemble.weights,
        scores=score(probabilities, table.labels),
        per_class=score_classes(matrix, task.class_names),
        confusion_matrix=matrix.tolist(),
    )
    metrics = results.Metrics(members=member_metrics, ensemble=ensemble_metrics)
    return Evaluation(
        metrics=metrics, ensemble=ensemble, member_predictions=members, ensemble_predictions=combined, table=table
    )


def make_test_predictions(num_classes):
    ids, rng = np.arange(1, NUM_TEST + 1), np.random.default_rng(6)
    logits = make_logits(rng.integers(num_classes, size=NUM_TEST), 1.0, 5, num_classes)
    models = ["good fold 0", "fair fold 0"]
    agreement = results.Agreement(num_images=NUM_TEST, models=models, rates=[[1.0, 0.6], [0.6, 1.0]])
    stats = results.CascadeStats(stages=[], full_forward_passes=12, mean_forward_passes=4.5, agreement=agreement)
    return predictions.CascadePredictions(Predictions(ids, logits), np.where(ids % 4 == 0, 12, 2), stats)


def make_run_data(task):
    ids, labels = np.arange(1, N + 1), np.random.default_rng(0).integers(task.num_classes, size=N)
    groups = np.arange(N)
    groups[[5, 6, 7]] = 5
    table = FoldTable(ids, labels, np.arange(N) % 3, groups)
    resizing = [{"until": 0.5, "size": 16}]
    config = Config.model_validate(
        {
            "members": {
                "good": {"train": {"epochs": 2, "batch_size": 32, "progressive_resizing": resizing}},
                "fair": {"alternating_flip": True, "train": {"epochs": 2, "batch_size": 32}},
            },
            "folds": {"num_folds": 3},
        }
    )
    members = {
        name: Predictions(ids, make_logits(labels, share_correct, seed, task.num_classes))
        for name, share_correct, seed in (("good", 0.8, 1), ("fair", 0.6, 2))
    }
    stages, images = (("prepare", 2), ("predict", 3), ("predict", 5)), smooth_images(N, 3, task.image_size)
    return RunData(
        name="tiny",
        task=task,
        config=config,
        environment={"config": "tiny", "date": "2026-11-24", "commit": "abc-dirty", "packages": {"torch": "2"}},
        times=[results.StageTime(stage=stage, seconds=seconds) for stage, seconds in stages],
        uploads=[],
        table=table,
        images=images,
        training_table=table,
        training_images=images,
        evaluation=make_evaluation(task, table, members),
        histories={name: dict.fromkeys(range(3), EPOCHS) for name in members},
        refit_histories={name: {} for name in members},
        test=make_test_predictions(task.num_classes),
        test_images=smooth_images(NUM_TEST, 4, task.image_size),
    )


@pytest.fixture(scope="module")
def run_data():
    return make_run_data(CIFAR10)


def blocks_of(section, block_class):
    return [block for block in section.blocks if isinstance(block, block_class)]


def pixels(image):
    data = np.frombuffer(base64.b64decode(image.source.split(",", 1)[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def looks_like(image, expected):
    """WebP changes an image slightly; other images differ far more."""
    return np.abs(pixels(image).astype(int) - expected).mean() < 8


def test_figures_are_drawn_whatever_backend_a_notebook_sets():
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    subprocess.run([sys.executable, "-c", "import pipeline.report.figures"], cwd=ROOT, env=environment, check=True)


def test_data_uri_contains_the_image():
    first, second = smooth_images(2, 9)

    assert looks_like(CaptionedImage(as_data_uri(first), ""), first)
    assert not looks_like(CaptionedImage(as_data_uri(first), ""), second)


def test_collect_takes_the_predictions_that_it_is_given(run_data):
    run = SimpleNamespace(
        name="tiny",
        config=lambda: run_data.config,
        environment=lambda: run_data.environment,
        times=lambda: run_data.times,
        folds=lambda: run_data.training_table,
        fold=lambda member, fold: SimpleNamespace(history=lambda: run_data.histories[member][fold]),
    )
    stores = {
        "train": SimpleNamespace(ids=run_data.table.ids, images=run_data.training_images),
        "test": SimpleNamespace(ids=run_data.test.predictions.ids, images=run_data.test_images),
    }
    other = {**stores, "test": SimpleNamespace(ids=np.arange(NUM_TEST), images=run_data.test_images)}
    arguments = (run_data.evaluation, [], run_data.test)

    assert collect(run, CIFAR10, stores, *arguments) == run_data
    assert collect(run, CIFAR10, other, run_data.evaluation, [], None).test_images is None
    with pytest.raises(RunError, match="the run tiny predicted 80 test images with other ids than the 80 of the input"):
        collect(run, CIFAR10, other, *arguments)


def test_headline_has_accuracy_interval_and_expected_score(run_data):
    texts = {stat.name: (stat.value, stat.note) for stat in headline(run_data)}
    ensemble = run_data.ensemble_metrics.scores
    low, high = ensemble.accuracy_ci95

    assert texts["out-of-fold accuracy"] == (
        f"{ensemble.accuracy:.4f}",
        f"measured; 95 % CI {low:.4f} to {high:.4f}, n = 300",
    )
    assert "all 6 models" in texts["expected on Kaggle"][1]
    assert texts["Kaggle score"][0] == "unknown"
    assert texts["training"] == ("2.0 min", "0.006 PFLOP at 50 GFLOP/s")


@pytest.mark.parametrize(
    ("with_folds", "models"),
    [(False, "averages 4 models trained"), (True, "averages 4 models trained .* and 6 fold models")],
)
def test_headline_states_that_refits_are_not_scored(run_data, with_folds, models):
    members = {
        name: member.model_copy(update={"refits": [0, 1]})
        for name, member in run_data.evaluation.metrics.members.items()
    }
    metrics = run_data.evaluation.metrics.model_copy(update={"members": members})
    config = run_data.config.model_copy(update={"refit": RefitConfig(models=2, with_folds=with_folds)})
    data = replace(run_data, config=config, evaluation=replace(run_data.evaluation, metrics=metrics))
    note = {stat.name: stat.note for stat in headline(data)}["expected on Kaggle"]

    assert re.search(models, note)
    assert "no score can be measured" in note


def test_headline_has_the_kaggle_scores(run_data):
    upload = Upload("f" * 64, "tiny", "submission.csv", "m", "2026-11-24", 1, "complete", 0.91, 0.9)
    stats = {stat.name: stat for stat in headline(replace(run_data, uploads=[upload]))}

    assert stats["public score"].value == "0.9100"
    assert stats["private score"].note.startswith(f"{0.9 - run_data.ensemble_metrics.scores.accuracy:+.4f}")
    assert "Kaggle score" not in stats


def test_folds_and_stages_have_their_speed(run_data):
    fold_table, stages = blocks_of(scores.folds_section(run_data), Table)
    by_stage = {row[0]: row for row in stages.rows}

    assert [row[:2] for row in fold_table.rows] == [[name, fold] for name in ("good", "fair") for fold in range(3)]
    assert fold_table.rows[0][-1] == 20  # images/s
    assert by_stage["prepare"][2:4] == [N + NUM_TEST, 190]
    assert by_stage["predict"][1:3] == [Number(8.0, 1), NUM_TEST]
    assert f"{20 * 12 + 60 * 2} forward passes" in by_stage["predict"][4]


def test_each_member_has_its_learning_curves(run_data):
    captions = [figure.caption for figure in blocks_of(scores.learning_curves_section(run_data), Figure)]

    assert len(captions) == 6
    assert all("mean of 3 folds" in caption for caption in captions)


def test_learning_curves_show_training_and_validation_in_one_plot(run_data):
    validated = [EPOCHS[0], {**EPOCHS[1], "validation_loss": 1.25, "validation_accuracy": 0.5}]
    section = scores.learning_curves_section(replace(run_data, histories={"good": {0: validated, 1: validated}}))
    loss, accuracy, rate = (figure.drawing.svg for figure in blocks_of(section, Figure))

    assert all("training" in svg and "validation" in svg for svg in (loss, accuracy))
    assert "validation" not in rate


def test_each_optimizer_has_its_learning_rate_curve(run_data):
    with_muon = [{**epoch, "lr_muon": 0.2} for epoch in EPOCHS]
    histories = {"good": dict.fromkeys(range(3), with_muon)}
    section = scores.learning_curves_section(replace(run_data, histories=histories))
    captions = [figure.caption for figure in blocks_of(section, Figure)]

    assert len(captions) == 4
    assert [caption.split(" learning rate")[0] for caption in captions[2:]] == ["good: sgd", "good: muon"]


def test_confusion_matrix_cell_has_the_images_that_it_counts(run_data):
    (matrix,) = blocks_of(confusion_matrix_section(run_data), Matrix)
    probabilities = run_data.probabilities
    predicted = probabilities.argmax(1)

    for (true, label), gallery in matrix.images.items():
        rows = np.flatnonzero((run_data.table.labels == true) & (predicted == label))
        assert matrix.values[true][label] == str(len(rows))
        assert len(gallery.images) == min(len(rows), 16)
        top = rows[probabilities[rows, label].argmax()]
        assert looks_like(gallery.images[0], run_data.images[top])
        assert f"id {run_data.table.ids[top]}," in gallery.images[0].title
    empty = [(i, j) for i in range(10) for j in range(10) if matrix.values[i][j] == "0"]
    assert not set(empty) & set(matrix.images)


def test_class_accuracies_have_interval_and_n(run_data):
    (table,) = blocks_of(scores.class_accuracy_section(run_data), Table)

    assert [row[0] for row in table.rows] == list(CIFAR10.class_names)
    assert sum(row[-1] for row in table.rows) == N


def test_augmented_images_are_those_of_the_training(run_data):
    good, fair, views = blocks_of(galleries.training_images_section(run_data), ImageTable)
    name, images = fair.rows[0]
    row = np.flatnonzero(run_data.table.folds != 0)[0]
    shown = [image for image in images[1:] if image.source]

    assert name.startswith(f"{run_data.table.ids[row]} ")
    assert looks_like(images[0], run_data.images[row])
    # The only augmentation is a flip in every other epoch.
    original = [looks_like(image, run_data.images[row]) for image in shown]
    flipped = [looks_like(image, run_data.images[row][:, ::-1]) for image in shown]
    assert [one or other for one, other in zip(original, flipped, strict=True)] == [True] * len(shown)
    assert len(set(original)) == len(shown)
    sizes = [pixels(image).shape[0] for _, row in good.rows for image in row[1:] if image.source]
    assert set(sizes) == {16, 32}
    assert looks_like(views.rows[0][1][1], run_data.images[row][:, ::-1])


def test_errors_are_the_most_confident_with_true_and_predicted_class(run_data):
    (gallery,) = blocks_of(galleries.confident_errors_section(run_data), Gallery)
    probabilities, labels = run_data.probabilities, run_data.table.labels
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    first = wrong[probabilities[wrong].max(1).argmax()]

    assert f"24 most confident of {len(wrong)}" in gallery.caption
    assert looks_like(gallery.images[0], run_data.images[first])
    assert gallery.images[0].caption.splitlines() == [
        str(run_data.table.ids[first]),
        f"true {CIFAR10.class_names[labels[first]]} {probabilities[first, labels[first]]:.3f}",
        f"predicted {CIFAR10.class_names[probabilities[first].argmax()]} {probabilities[first].max():.3f}",
    ]


def test_confident_errors_have_heat_maps_of_what_the_wrong_class_depends_on(run_data):
    calls = []

    def attribute(rows, classes):
        calls.append((rows, classes))
        return np.ones((len(rows), 32, 32), np.float32)

    (gallery,) = blocks_of(galleries.confident_errors_section(replace(run_data, attribute=attribute)), Gallery)
    ((rows, classes),) = calls

    assert classes.tolist() == run_data.probabilities[rows].argmax(1).tolist()
    assert (classes != run_data.table.labels[rows]).all()
    for image in gallery.images:
        red, green, blue = pixels(replace(image, source=image.heat_map)).reshape(-1, 3).mean(0)
        assert red > green + 50
        assert red > blue + 50


def test_label_issues_are_listed_by_id(run_data):
    (code,) = blocks_of(galleries.label_issues_section(run_data), Code)
    listed = [int(word) for word in code.text.split(", ")]

    assert set(listed) <= set(run_data.table.ids.tolist())
    assert len(listed) > 10


def test_near_duplicates_are_shown_by_group(run_data):
    (image_table,) = blocks_of(galleries.near_duplicates_section(run_data), ImageTable)
    (text,) = blocks_of(galleries.near_duplicates_section(run_data), Text)

    assert text.text.startswith("3 images in 1 groups")
    assert [name for name, _ in image_table.rows] == ["3 images"]
    assert looks_like(image_table.rows[0][1][1], run_data.images[6])


def test_calibration_has_both_errors(run_data):
    (figure,) = blocks_of(scores.calibration_section(run_data), Figure)

    assert "good 0.50, fair 1.00" in figure.caption
    assert len(re.findall(r"0\.\d{4} (?:before|after)", figure.caption)) == 2
    assert "n = 300" in figure.caption


def test_gain_of_a_member_is_against_the_ensemble_without_it(run_data):
    (table,) = blocks_of(scores.ensemble_members_section(run_data), Table)
    (matrix,) = blocks_of(scores.ensemble_members_section(run_data), Matrix)
    rows = {row[0]: row for row in table.rows}
    accuracy = run_data.ensemble_metrics.scores.accuracy

    assert rows["good"][6] == Number(100 * (accuracy - run_data.out_of_fold_scores("fair").accuracy), 2)
    assert matrix.values == [["100.0", "60.0"], ["60.0", "100.0"]]
    assert matrix.shades == [[0.0, 0.8], [0.8, 0.0]]


def test_test_images_show_the_least_confident(run_data):
    section = galleries.test_images_section(run_data)
    (gallery,) = blocks_of(section, Gallery)
    confidence = to_probabilities(run_data.test.predictions.logits).max(1)

    assert gallery.images[0].caption.startswith(f"{run_data.test.predictions.ids[confidence.argmin()]}\n")
    assert looks_like(gallery.images[0], run_data.test_images[confidence.argmin()])
    assert any("4.50 on average, of 12" in figure.caption for figure in blocks_of(section, Figure))


def test_run_without_test_predictions_has_no_test_images(run_data):
    (text,) = galleries.test_images_section(replace(run_data, test=None, test_images=None)).blocks

    assert "Not predicted yet" in text.text


def test_report_has_the_commands_to_reproduce_the_run(run_data):
    commands, dirty, config, _ = reproduce_section(run_data).blocks

    assert commands.text.splitlines()[0] == "git checkout abc"
    assert "python run.py all --config submissions/tiny/config.yaml" in commands.text
    assert "uncommitted changes" in dirty.text
    assert "members:\n" in config.text


def test_section_titles_are_in_order(run_data):
    assert [section.title for section in run_page(run_data).sections] == [
        "Folds, time and speed",
        "Learning curves",
        "Confusion matrix",
        "Per-class accuracy",
        "Training images (what the model sees)",
        "Most confident errors",
        "Label issues",
        "Near-duplicates",
        "Calibration",
        "Ensemble members",
        "Test images",
        "Reproduce",
    ]


def test_page_is_self_contained_and_reproducible(run_data):
    html = render(run_page(run_data))
    addresses = re.findall(r"""(?:src|href)\s*=\s*"([^"]*)\"""", html) + re.findall(r"url\(([^)]*)\)", html)

    assert len(addresses) > 100
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|http-equiv', "", html)
    assert render(run_page(run_data)) == html


def test_ids_of_a_page_are_unique(run_data):
    ids = re.findall(r'\bid="([^"]*)"', render(run_page(run_data)))

    assert len(ids) == len(set(ids))


def test_report_of_another_task_has_its_classes_and_sizes():
    run_data = make_run_data(WEEKDAYS)
    good, _, views = blocks_of(galleries.training_images_section(run_data), ImageTable)
    (matrix,) = blocks_of(confusion_matrix_section(run_data), Matrix)
    html = render(run_page(run_data))

    assert matrix.columns == ("mon", "tue", "wed")
    sizes = {pixels(image).shape[0] for _, row in good.rows for image in row[1:] if image.source}
    assert sizes == {16, 48}
    assert pixels(views.rows[0][1][0]).shape == (48, 48, 3)
    assert "80 images (Kaggle scores 50 of them, the others are distractors)" in html
    assert "airplane" not in html


def test_figure_uses_the_colours_of_the_page():
    svg = figures.accuracies(["<b>&", "other"], [0.5, 0.6], [(0.4, 0.6), (0.5, 0.7)], "two").svg

    assert "var(--ink)" in svg
    assert "var(--series-0)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "&lt;b&gt;&amp;" in svg


def hostile_page():
    image = CaptionedImage(as_data_uri(smooth_images(1, 1)[0]), HOSTILE, HOSTILE)
    blocks = [
        Text(HOSTILE),
        Code(HOSTILE, HOSTILE),
        Gallery(HOSTILE, [image]),
        ImageTable(HOSTILE, [HOSTILE], [(HOSTILE, [image])]),
        Table([HOSTILE], [[HOSTILE]], HOSTILE, is_sortable=True),
        Matrix(HOSTILE, HOSTILE, [HOSTILE], [HOSTILE], [[HOSTILE]], [[0.5]], {(0, 0): Gallery(HOSTILE, [image])}),
        Figure(figures.accuracies([HOSTILE], [0.5], [(0.4, 0.6)], HOSTILE), HOSTILE),
    ]
    return Page(HOSTILE, HOSTILE, [Stat(HOSTILE, HOSTILE, HOSTILE)], [Section("one", HOSTILE, blocks)])


def test_all_texts_are_escaped():
    html = render(hostile_page())

    assert html.count("&lt;script&gt;") > 20
    assert "<script>window" not in html


def run_row(run, cv, **changes):
    row = RunRow(run, "r", "net", 3, 0, cv, cv and cv - 0.01, cv and cv + 0.01, 12.0, None, None, "", "2026-11-24")
    return replace(row, **changes)


def test_page_over_all_runs_links_and_plots_them():
    rows = [
        run_row("one$x", 0.9, public=0.91, private=0.89),
        run_row("two", 0.8),
        run_row("started", None, minutes=None),
    ]
    page = all_runs_page(rows, {"two": "two/report.html"}, {})
    html = render(page)

    assert '<a href="two/report.html">two</a>' in html
    assert page.subtitle == "3 runs, 1 of them scored by Kaggle"
    assert "one$x</text>" in html or "one\\$x" not in html
    assert len([block for section in page.sections for block in section.blocks if isinstance(block, Figure)]) == 2


@pytest.mark.parametrize("rows", [[], [run_row("started", None, minutes=None)]], ids=["no run", "none trained"])
def test_page_over_runs_without_scores_has_no_plots(rows):
    html = render(all_runs_page(rows, {}, {}))

    assert "Hyperparameter searches" not in html
    assert "No run with a cross-validation has a Kaggle score yet." in html
    assert "No run is trained on all of its folds yet." in html
