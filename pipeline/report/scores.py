"""RunData -> the sections with scores: folds, curves, confusion, classes, calibration, members."""

import numpy as np

from pipeline.task import CLASS_NAMES
from pipeline.ensemble import find_weights
from pipeline.learning.metrics import calibration, score
from pipeline.predictions import blend
from pipeline.report import figures
from pipeline.report.blocks import Block, Cell, Figure, Gallery, Matrix, Number, Section, Table, Text
from pipeline.report.run_data import RunData
from pipeline.report.images import training_image

NUM_IN_CELL = 16  # pictures behind a cell of the confusion matrix
CURVES = {"loss": "training loss (nats)", "accuracy": "training accuracy", "lr": "learning rate at the epoch's end"}


def folds(facts: RunData) -> Section:
    """Show each fold's score and time, and the time of each stage."""
    rows: list[list[Cell]] = []
    names, values, intervals = [], [], []
    for member, found in facts.metrics["members"].items():
        for fold, scores in found["folds"].items():
            history = facts.histories[member][fold]
            seconds = sum(epoch["seconds"] for epoch in history)
            speed = sum(epoch["seconds"] * epoch["images_per_second"] for epoch in history) / seconds
            low, high = scores["accuracy_95"]
            measured = (scores["accuracy"], low, high, scores["log_loss"])
            numbers = [Number(value) for value in measured]
            rows.append([member, int(fold), *numbers, scores["num_images"], Number(seconds, 1), round(speed)])
            names.append(f"{member} {fold}")
            values.append(scores["accuracy"])
            intervals.append((low, high))
    sizes = [s["num_images"] for m in facts.metrics["members"].values() for s in m["folds"].values()]
    head = ["member", "fold", "accuracy", "low", "high", "log loss", "n", "seconds", "images/s"]
    blocks: list[Block] = [
        Figure(
            figures.accuracies(names, values, intervals, "folds"),
            f"Each fold on the images it held out (n = {min(sizes):,} to {max(sizes):,}).",
        ),
        Table(head, rows, "Each fold: score on the images held out, seconds and speed of its epochs.", sorts=True),
    ]
    if facts.times:
        blocks.append(_stages(facts))
    return Section("folds", "Folds, time and speed", blocks)


def _stages(facts: RunData) -> Table:
    seconds: dict[str, float] = {}
    for row in facts.times:
        seconds[row["stage"]] = seconds.get(row["stage"], 0.0) + row["seconds"]
    num_passes = int(facts.test.passes.sum()) if facts.test else 0
    num_images = {
        "prepare": len(facts.images) + (len(facts.test.images) if facts.test else 0),
        "predict": len(facts.test.images) if facts.test else 0,
    }
    rows: list[list[Cell]] = []
    for stage, spent in seconds.items():
        images = num_images.get(stage)
        note = f"{num_passes:,} passes, {num_passes / spent:,.0f} a second" if stage == "predict" and num_passes else ""
        rows.append([stage, Number(spent, 1), images, round(images / spent) if images else None, note])
    caption = (
        "Each stage, all calls added up; what was there already takes no time, so speeds are right after one whole run."
    )
    return Table(["stage", "seconds", "images", "images/s", ""], rows, caption)


def curves(facts: RunData) -> Section:
    """Show how each member learned."""
    blocks: list[Block] = []
    for member, history in facts.histories.items():
        held_out = facts.metrics["members"][member]["out_of_fold"]["accuracy"]
        blocks.append(
            Text(
                f"{member}: the accuracy is that on augmented images while it learned; on the images held out it came "
                f"to {held_out:.4f}."
            )
        )
        for key, label in CURVES.items():
            drawing = figures.learning_curve(history, key, label, member)
            blocks.append(Figure(drawing, f"{member}: {label}, n = {len(history)} folds."))
    return Section("curves", "Learning curves", blocks)


def confusion(facts: RunData) -> Section:
    """Show what is taken for what; each cell has the images behind it."""
    matrix = np.array(facts.metrics["confusion"])
    probabilities = facts.blended.of(facts.table.ids)
    said = probabilities.argmax(1)
    cells = {}
    for true, name in enumerate(CLASS_NAMES):
        for other, other_name in enumerate(CLASS_NAMES):
            rows = np.flatnonzero((facts.table.classes == true) & (said == other))
            if len(rows):
                surest = rows[np.argsort(-probabilities[rows, other], kind="stable")][:NUM_IN_CELL]
                what = f"{name}, and right" if true == other else f"{name}, taken for {other_name}"
                caption = f"{what}: the surest {len(surest)} of {len(rows):,}"
                pictures = [training_image(facts, int(row), f"{probabilities[row, other]:.3f}") for row in surest]
                cells[true, other] = Gallery(caption, pictures)
    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    shades = np.where(np.eye(len(matrix), dtype=bool), 0.0, wrong / max(int(wrong.max()), 1))
    return Section(
        "confusion",
        "What is taken for what",
        [
            Matrix(
                caption=f"Out of fold, n = {len(said):,}: rows are true, columns are said, errors are shaded. "
                "Choose a cell to see its images.",
                row_title="true \\ said",
                rows=CLASS_NAMES,
                columns=CLASS_NAMES,
                values=[[f"{value:,}" for value in row] for row in matrix],
                shades=shades.tolist(),
                pictures=cells,
            )
        ],
    )


def classes(facts: RunData) -> Section:
    """Show the accuracy of each class."""
    per_class = facts.metrics["per_class"]
    found = list(per_class.values())
    svg = figures.accuracies(
        list(per_class), [c["accuracy"] for c in found], [c["accuracy_95"] for c in found], "classes"
    )
    rows = [
        [name, Number(scores["accuracy"]), *map(Number, scores["accuracy_95"]), scores["num_images"]]
        for name, scores in per_class.items()
    ]
    return Section(
        "classes",
        "Each class",
        [
            Figure(svg, "Share of each class that is found (recall), out of fold."),
            Table(["class", "accuracy", "low", "high", "n"], rows, sorts=True),
        ],
    )


def calibrated(facts: RunData) -> Section:
    """Show how sure the blend is against how right, before and after the temperatures."""
    weights = facts.metrics["weights"]
    raw = blend(dict(facts.members), weights).of(facts.table.ids)
    before = calibration(raw, facts.table.classes)
    after = calibration(facts.blended.of(facts.table.ids), facts.table.classes)
    temperatures = ", ".join(f"{name} {value:.2f}" for name, value in facts.metrics["temperatures"].items())
    text = (
        f"Temperatures: {temperatures}. Expected calibration error {before['error']:.4f} before and "
        f"{after['error']:.4f} after, n = {len(facts.table.ids):,}, 15 bins; "
        "the temperatures were found on the same images."
    )
    return Section("calibration", "Is it as sure as it is right?", [Figure(figures.reliability(before, after), text)])


def members(facts: RunData) -> Section:
    """Show what each member is worth, and how far the nets agree."""
    metrics, classes_ = facts.metrics, facts.table.classes
    ids = facts.table.ids
    hot = {name: p.at_temperature(metrics["temperatures"][name]) for name, p in facts.members.items()}
    rows: list[list[Cell]] = []
    for name in metrics["members"]:
        alone = metrics["members"][name]["out_of_fold"]
        others = {other: p for other, p in hot.items() if other != name}
        adds = loss = None
        if others:
            weights = find_weights({other: p.of(ids) for other, p in others.items()}, classes_)
            without = score(blend(others, weights).of(ids), classes_)
            adds = Number(100 * (metrics["blend"]["accuracy"] - without["accuracy"]), 2)
            loss = Number(without["log_loss"] - metrics["blend"]["log_loss"])
        found = (alone["accuracy"], *alone["accuracy_95"], metrics["temperatures"][name], metrics["weights"][name])
        rows.append([name, *map(Number, found), adds, loss])
    head = ["member", "accuracy alone", "low", "high", "temperature", "weight", "adds (points)", "less log loss"]
    caption = f"Out of fold, n = {len(ids):,}. What a member adds: the blend with it less the best blend of the others."
    blocks: list[Block] = [Table(head, rows, caption, sorts=True)]
    agreement = facts.test.account.get("agreement") if facts.test else None
    if agreement:
        shares = np.array(agreement["shares"])
        blocks.append(
            Matrix(
                caption=f"Test images on which two nets name the same class, in percent; n = {agreement['images']:,}, "
                "all views.",
                row_title="",
                rows=agreement["nets"],
                columns=agreement["nets"],
                values=[[f"{100 * value:.1f}" for value in row] for row in shares],
                shades=np.clip(2 * (1 - shares), 0, 1).tolist(),
            )
        )
    elif facts.test:
        blocks.append(Text("How far the nets agree was not kept by this run."))
    return Section("members", "Members", blocks)
