import base64
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.task import CLASS_NAMES
from pipeline.config import Config
from pipeline.learning.metrics import score, score_by_class
from pipeline.predictions import Predictions, blend
from pipeline.report import figures
from pipeline.report.blocks import (
    Code,
    Fact,
    Figure,
    Gallery,
    Matrix,
    Number,
    Page,
    Image_,
    Section,
    Strip,
    Table,
    Text,
)
from pipeline.report.run_data import Predicted, RunData
from pipeline.report.galleries import duplicates, errors, label_errors, test_images, training_images
from pipeline.report.overview import all_runs_page
from pipeline.report.page import render
from pipeline.report.images import as_data_uri
from pipeline.report.run_page import headline, repeat, run_page
from pipeline.report.scores import calibrated, classes, confusion, curves, folds, members
from pipeline.runs.run_folder import FoldTable
from pipeline.ledger import Row, Upload

test_images.__test__ = False  # a section, and none of pytest's
N, NUM_TEST = 300, 80
EPOCHS = [{"epoch": e, "loss": 2.0 / e, "accuracy": 0.3 * e, "lr": 0.1, "seconds": 10.0, "images_per_second": 20.0}
          for e in (1.0, 2.0)]  # fmt: skip
HOSTILE = "<script>window.hacked = 1</script>"


def said(classes_, share_right, seed):
    """Probabilities that are right for a share of the images."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(classes_), 10))
    right = rng.random(len(classes_)) < share_right
    logits[np.arange(len(classes_)), np.where(right, classes_, rng.integers(10, size=len(classes_)))] += 4
    powers = np.exp(logits)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def smooth_images(number, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (number, 4, 4, 3), np.uint8)
    return np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in coarse])


@pytest.fixture(scope="module")
def facts():
    rng = np.random.default_rng(0)
    ids, true = np.arange(1, N + 1), rng.integers(10, size=N)
    groups = np.arange(N)
    groups[[5, 6, 7]] = 5
    table = FoldTable(ids, true, np.arange(N) % 3, groups)
    config = Config.model_validate(
        {
            "members": {
                "good": {"train": {"epochs": 2, "batch_size": 32, "progressive_resizing": [{"until": 0.5, "size": 16}]}},
                "fair": {"alternating_flip": True, "train": {"epochs": 2, "batch_size": 32}},
            },
            "folds": {"num_folds": 3},
        }
    )
    predictions = {"good": Predictions(ids, said(true, 0.8, 1)), "fair": Predictions(ids, said(true, 0.6, 2))}
    weights, temperatures = {"good": 0.75, "fair": 0.25}, {"good": 0.5, "fair": 1.0}
    blended = blend({name: p.at_temperature(temperatures[name]) for name, p in predictions.items()}, weights)
    compute = {"training_seconds": 60.0, "training_flop": 3e12, "prediction_flop_per_image": 1e6}
    metrics = {
        "missing": [],
        "members": {
            name: {
                "folds": {str(f): score(p.probabilities[table.folds == f], true[table.folds == f]) for f in range(3)},
                "out_of_fold": score(p.probabilities, true),
                "compute": compute,
            }
            for name, p in predictions.items()
        },
        "weights": weights,
        "temperatures": temperatures,
        "blend": score(blended.probabilities, true),
        **score_by_class(blended.probabilities, true, CLASS_NAMES),
    }
    test_ids = np.arange(1, NUM_TEST + 1)
    passes = np.where(test_ids % 4 == 0, 12, 2)
    agreement = {"images": NUM_TEST, "nets": ["good fold 0", "fair fold 0"], "shares": [[1.0, 0.6], [0.6, 1.0]]}
    return RunData(
        name="tiny",
        config=config,
        metrics=metrics,
        environment={"recipe": "tiny", "date": "2026-11-24", "commit": "abc-dirty", "packages": {"torch": "2"}},
        times=[{"stage": stage, "seconds": spent} for stage, spent in (("prepare", 2), ("predict", 3), ("predict", 5))],
        uploads=[],
        table=table,
        images=smooth_images(N, 3),
        members=predictions,
        blended=blended,
        histories={name: {str(f): EPOCHS for f in range(3)} for name in predictions},
        test=Predicted(
            Predictions(test_ids, said(rng.integers(10, size=NUM_TEST), 1.0, 5)),
            passes,
            {"passes_of_everything": 12, "agreement": agreement},
            smooth_images(NUM_TEST, 4),
        ),
    )  # fmt: skip


def blocks_of(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def pixels(picture):
    data = np.frombuffer(base64.b64decode(picture.source.split(",", 1)[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def looks_like(picture, image):
    """WebP changes an image a little; another image differs by far more."""
    return np.abs(pixels(picture).astype(int) - image).mean() < 8


def test_a_picture_is_its_image():
    one, other = smooth_images(2, 9)

    assert looks_like(Image_(as_data_uri(one), ""), one)
    assert not looks_like(Image_(as_data_uri(one), ""), other)


def test_the_headline_says_accuracy_interval_and_what_to_expect(facts):
    texts = {fact.name: (fact.value, fact.note) for fact in headline(facts)}
    low, high = facts.metrics["blend"]["accuracy_95"]

    assert texts["out-of-fold accuracy"] == (
        f"{facts.metrics['blend']['accuracy']:.4f}",
        f"95 %: {low:.4f} to {high:.4f}, n = 300",
    )
    assert "all 6 nets" in texts["expected on Kaggle"][1]
    assert texts["score on Kaggle"][0] == "not known"
    assert texts["training"] == ("120 s", "0.006 PFLOP at 50 GFLOP/s") or texts["training"][0] == "2.0 min"


def test_scores_of_kaggle_stand_in_the_headline(facts):
    upload = Upload("f" * 64, "tiny", "submission.csv", "m", "2026-11-24", 1, "complete", 0.91, 0.9)
    names = {fact.name: fact for fact in headline(replace(facts, uploads=[upload]))}

    assert names["public score"].value == "0.9100"
    assert names["private score"].note == f"{0.9 - facts.metrics['blend']['accuracy']:+.4f}"
    assert "score on Kaggle" not in names


def test_folds_and_stages_have_their_speed(facts):
    scores, stages = blocks_of(folds(facts), Table)
    by_stage = {row[0]: row for row in stages.rows}

    assert [row[:2] for row in scores.rows] == [[name, fold] for name in ("good", "fair") for fold in range(3)]
    assert scores.rows[0][-1] == 20  # images/s
    assert by_stage["prepare"][2:4] == [N + NUM_TEST, 190]
    assert by_stage["predict"][1:3] == [Number(8.0, 1), NUM_TEST]
    assert f"{20 * 12 + 60 * 2} passes" in by_stage["predict"][4]


def test_each_member_has_its_curves(facts):
    captions = [figure.caption for figure in blocks_of(curves(facts), Figure)]

    assert len(captions) == 6
    assert all("n = 3 folds" in caption for caption in captions)


def test_a_cell_opens_the_images_that_it_counts(facts):
    (matrix,) = blocks_of(confusion(facts), Matrix)
    wrong = facts.blended.probabilities.argmax(1)

    for (true, other), gallery in matrix.pictures.items():
        rows = np.flatnonzero((facts.table.classes == true) & (wrong == other))
        assert matrix.values[true][other] == str(len(rows))
        assert len(gallery.pictures) == min(len(rows), 16)
        surest = rows[facts.blended.probabilities[rows, other].argmax()]
        assert looks_like(gallery.pictures[0], facts.images[surest])
        assert f"id {facts.table.ids[surest]}," in gallery.pictures[0].title
    empty = [(i, j) for i in range(10) for j in range(10) if matrix.values[i][j] == "0"]
    assert not set(empty) & set(matrix.pictures)


def test_classes_have_their_interval_and_n(facts):
    (table,) = blocks_of(classes(facts), Table)

    assert [row[0] for row in table.rows] == list(CLASS_NAMES)
    assert sum(row[-1] for row in table.rows) == N


def test_augmented_images_are_those_of_the_training(facts):
    good, fair, views = blocks_of(training_images(facts), Strip)
    name, pictures = fair.rows[0]
    inside = np.flatnonzero(facts.table.folds != 0)
    shown = [picture for picture in pictures[1:] if picture.source]

    assert name.startswith(f"{facts.table.ids[inside[0]]} ")
    assert looks_like(pictures[0], facts.images[inside[0]])
    # Nothing but a mirror is drawn, in every other epoch.
    faces = [looks_like(picture, facts.images[inside[0]]) for picture in shown]
    mirrored = [looks_like(picture, facts.images[inside[0]][:, ::-1]) for picture in shown]
    assert [one or other for one, other in zip(faces, mirrored, strict=True)] == [True] * len(shown)
    assert len(set(faces)) == len(shown)
    sizes = [pixels(picture).shape[0] for _, row in good.rows for picture in row[1:] if picture.source]
    assert set(sizes) == {16, 32}
    assert looks_like(views.rows[0][1][1], facts.images[inside[0]][:, ::-1])


def test_errors_are_the_surest_ones_with_truth_and_answer(facts):
    (gallery,) = blocks_of(errors(facts), Gallery)
    probabilities = facts.blended.probabilities
    wrong = np.flatnonzero(probabilities.argmax(1) != facts.table.classes)
    first = wrong[probabilities[wrong].max(1).argmax()]

    assert f"24 of {len(wrong)}" in gallery.caption
    assert looks_like(gallery.pictures[0], facts.images[first])
    assert gallery.pictures[0].caption.splitlines() == [
        str(facts.table.ids[first]),
        f"true {CLASS_NAMES[facts.table.classes[first]]} {probabilities[first, facts.table.classes[first]]:.3f}",
        f"said {CLASS_NAMES[probabilities[first].argmax()]} {probabilities[first].max():.3f}",
    ]


def test_doubtful_labels_are_listed_by_id(facts):
    (code,) = blocks_of(label_errors(facts), Code)
    listed = [int(word) for word in code.text.split(", ")]

    assert set(listed) <= set(facts.table.ids.tolist())
    assert len(listed) > 10


def test_duplicates_show_each_group(facts):
    (strip,) = blocks_of(duplicates(facts), Strip)
    (text,) = blocks_of(duplicates(facts), Text)

    assert text.text.startswith("3 images in 1 groups")
    assert [name for name, _ in strip.rows] == ["3 images"]
    assert looks_like(strip.rows[0][1][1], facts.images[6])


def test_calibration_tells_both_errors(facts):
    (figure,) = blocks_of(calibrated(facts), Figure)

    assert "good 0.50, fair 1.00" in figure.caption
    assert "n = 300" in figure.caption


def test_a_member_adds_what_the_blend_has_more_than_the_others(facts):
    (table,) = blocks_of(members(facts), Table)
    (matrix,) = blocks_of(members(facts), Matrix)
    rows = {row[0]: row for row in table.rows}
    without = score(facts.members["fair"].probabilities, facts.table.classes)["accuracy"]

    assert rows["good"][6] == Number(100 * (facts.metrics["blend"]["accuracy"] - without), 2)
    assert matrix.values == [["100.0", "60.0"], ["60.0", "100.0"]]
    assert matrix.shades == [[0.0, 0.8], [0.8, 0.0]]


def test_test_images_show_the_least_certain(facts):
    section = test_images(facts)
    (gallery,) = blocks_of(section, Gallery)
    confidence = facts.test.predictions.probabilities.max(1)

    assert gallery.pictures[0].caption.startswith(f"{facts.test.predictions.ids[confidence.argmin()]}\n")
    assert looks_like(gallery.pictures[0], facts.test.images[confidence.argmin()])
    assert any("4.50 on average, of 12" in figure.caption for figure in blocks_of(section, Figure))


def test_a_run_without_test_predictions_says_so(facts):
    (text,) = test_images(replace(facts, test=None)).blocks

    assert "Not predicted yet" in text.text


def test_the_run_can_be_made_again(facts):
    commands, dirty, recipe, _ = repeat(facts).blocks

    assert commands.text.splitlines()[0] == "git checkout abc"
    assert "python run.py all --config submissions/tiny/config.yaml" in commands.text
    assert "had been changed" in dirty.text
    assert "members:\n" in recipe.text


def test_the_page_needs_nothing_else(facts):
    html = render(run_page(facts))
    addresses = re.findall(r"""(?:src|href)\s*=\s*"([^"]*)\"""", html) + re.findall(r"url\(([^)]*)\)", html)

    assert len(addresses) > 100
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|http-equiv', "", html)
    assert render(run_page(facts)) == html


def test_ids_of_a_page_are_unique(facts):
    ids = re.findall(r'\bid="([^"]*)"', render(run_page(facts)))

    assert len(ids) == len(set(ids))


def test_a_figure_takes_its_colours_from_the_page():
    svg = figures.accuracies(["<b>&", "other"], [0.5, 0.6], [(0.4, 0.6), (0.5, 0.7)], "two").svg

    assert "var(--ink)" in svg
    assert "var(--series-0)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "&lt;b&gt;&amp;" in svg


def hostile_page():
    picture = Image_(as_data_uri(smooth_images(1, 1)[0]), HOSTILE, HOSTILE)
    blocks = [
        Text(HOSTILE),
        Code(HOSTILE, HOSTILE),
        Gallery(HOSTILE, [picture]),
        Strip(HOSTILE, [HOSTILE], [(HOSTILE, [picture])]),
        Table([HOSTILE], [[HOSTILE]], HOSTILE, sorts=True),
        Matrix(HOSTILE, HOSTILE, [HOSTILE], [HOSTILE], [[HOSTILE]], [[0.5]], {(0, 0): Gallery(HOSTILE, [picture])}),
        Figure(figures.accuracies([HOSTILE], [0.5], [(0.4, 0.6)], HOSTILE), HOSTILE),
    ]
    return Page(HOSTILE, HOSTILE, [Fact(HOSTILE, HOSTILE, HOSTILE)], [Section("one", HOSTILE, blocks)])


def test_texts_are_escaped_wherever_they_stand():
    html = render(hostile_page())

    assert html.count("&lt;script&gt;") > 20
    assert "<script>window" not in html


def a_row(run, cv, **more):
    row = Row(run, "r", "net", 3, cv, cv and cv - 0.01, cv and cv + 0.01, 12.0, None, None, "", "2026-11-24")
    return replace(row, **more)


def test_the_page_over_all_runs_links_and_plots_them():
    rows = [a_row("one$x", 0.9, public=0.91, private=0.89), a_row("two", 0.8), a_row("begun", None, minutes=None)]
    page = all_runs_page(rows, {"two": "two/report.html"})
    html = render(page)

    assert '<a href="two/report.html">two</a>' in html
    assert page.subtitle == "3 runs, 1 of them scored by Kaggle"
    assert "one$x</text>" in html or "one\\$x" not in html
    assert len([block for section in page.sections for block in section.blocks if isinstance(block, Figure)]) == 2


@pytest.mark.parametrize("rows", [[], [a_row("begun", None, minutes=None)]], ids=["no run", "none trained"])
def test_the_page_over_no_scores_says_so(rows):
    html = render(all_runs_page(rows, {}))

    assert "No run with a cross-validation has a score on Kaggle yet." in html
    assert "No run is trained on all of its folds yet." in html
