"""RunData -> the sections with scores."""

import numpy as np

from pipeline.ensemble import Ensemble, Probabilities
from pipeline.learning import metrics
from pipeline.learning.train_state import LR_PREFIX
from pipeline.report import figures
from pipeline.report.blocks import Block, Cell, Figure, Matrix, Number, Section, Table, Text
from pipeline.report.run_data import History, RunData
from pipeline.results import Accuracy, Agreement


def folds_section(data: RunData) -> Section:
    """Return the section with each fold's scores and time, and the time of each stage."""
    rows: list[list[Cell]] = []
    labels, accuracies, intervals, sizes = [], [], [], []
    for member, member_metrics in data.evaluation.metrics.members.items():
        for fold, scores in member_metrics.folds.items():
            numbers = [*_accuracy_cells(scores), Number(scores.log_loss)]
            rows.append([member, fold, *numbers, scores.num_images, *_time_cells(data.histories[member][fold])])
            labels.append(f"{member} {fold}")
            accuracies.append(scores.accuracy)
            intervals.append(scores.accuracy_ci95)
            sizes.append(scores.num_images)
        rows += [
            [member, f"refit {number}", *[None] * 5, *_time_cells(history)]
            for number, history in data.refit_histories[member].items()
        ]
    header = ["member", "fold", "accuracy", "95 % low", "95 % high", "log loss", "n", "seconds", "images/s"]
    caption = "Scores of each fold on its validation images; seconds and speed of its epochs."
    blocks: list[Block] = [
        Figure(
            figures.accuracies(labels, accuracies, intervals, "folds"),
            f"Accuracy of each fold on its validation images (n = {min(sizes):,} to {max(sizes):,}).",
        ),
        Table(header, rows, caption, is_sortable=True),
    ]
    if data.times:
        blocks.append(_stages(data))
    return Section("folds", "Folds, time and speed", blocks)


def _time_cells(history: History) -> list[Cell]:
    seconds = sum(epoch["seconds"] for epoch in history)
    speed = sum(epoch["seconds"] * epoch["images_per_second"] for epoch in history) / seconds
    return [Number(seconds, 1), round(speed)]


def _stages(data: RunData) -> Table:
    seconds: dict[str, float] = {}
    for entry in data.times:
        seconds[entry.stage] = seconds.get(entry.stage, 0.0) + entry.seconds
    num_test = 0 if data.test_images is None else len(data.test_images)
    num_images = {"prepare": len(data.training_images) + num_test, "predict": num_test}
    passes = 0 if data.test is None else int(data.test.forward_passes.sum())
    rows: list[list[Cell]] = []
    for stage, spent in seconds.items():
        images = num_images.get(stage)
        note = f"{passes:,} forward passes, {passes / spent:,.0f}/s" if stage == "predict" and passes and spent else ""
        rows.append([stage, Number(spent, 1), images, round(images / spent) if images and spent else None, note])
    caption = (
        "Time of each stage, summed over all times that the command was run. Results that existed already were "
        "skipped, so the speeds are exact only for an uninterrupted run."
    )
    return Table(["stage", "seconds", "images", "images/s", ""], rows, caption)


def learning_curves_section(data: RunData) -> Section:
    """Return the section with loss, accuracy and learning rates of each member by epoch, of training and validation."""
    blocks: list[Block] = []
    for member, histories in data.histories.items():
        accuracy = data.out_of_fold_scores(member).accuracy
        blocks.append(
            Text(
                f"{member}: the training's loss and accuracy are running means over augmented batches, each before "
                "its update, and its loss has the label smoothing; those of the validation are of at most 5,000 "
                f"validation images after the epoch, without TTA. The out-of-fold accuracy is {accuracy:.4f}."
            )
        )
        for label, columns in _curves(next(iter(histories.values()))).items():
            drawing = figures.learning_curves(histories, columns, label, member)
            num_folds = f"mean of {len(histories)} folds" if len(histories) > 1 else f"fold {next(iter(histories))}"
            blocks.append(Figure(drawing, f"{member}: {label}, {num_folds}."))
    return Section("curves", "Learning curves", blocks)


def _curves(history: History) -> dict[str, dict[str, str]]:
    """Return the plots of a history by their labels: the columns of each, with their labels."""
    keys = {key for row in history for key in row}
    rates = {
        f"{key.removeprefix(LR_PREFIX)} learning rate (end of epoch)": {key: "learning rate"}
        for key in history[0]
        if key.startswith(LR_PREFIX)
    }
    plots = {
        "loss (nats)": {"loss": "training", "validation_loss": "validation"},
        "accuracy": {"accuracy": "training", "validation_accuracy": "validation"},
    }
    shown = {label: {key: name for key, name in columns.items() if key in keys} for label, columns in plots.items()}
    return shown | rates


def class_accuracy_section(data: RunData) -> Section:
    """Return the section with the recall of each class."""
    per_class = data.ensemble_metrics.per_class
    scores = list(per_class.values())
    drawing = figures.accuracies(
        list(per_class), [s.accuracy for s in scores], [s.accuracy_ci95 for s in scores], "classes"
    )
    rows = [[name, *_accuracy_cells(scores), scores.num_images] for name, scores in per_class.items()]
    table = Table(["class", "accuracy", "95 % low", "95 % high", "n"], rows, is_sortable=True)
    return Section(
        "classes", "Per-class accuracy", [Figure(drawing, "Accuracy of each class (recall), out of fold."), table]
    )


def calibration_section(data: RunData) -> Section:
    """Return the section with the reliability diagram without and with temperature scaling."""
    before = metrics.reliability_diagram(_out_of_fold(data, data.ensemble.uncalibrated()), data.table.labels)
    after = metrics.reliability_diagram(data.probabilities, data.table.labels)
    temperatures = ", ".join(f"{name} {value:.2f}" for name, value in data.ensemble.temperatures.items())
    caption = (
        f"Temperatures: {temperatures}. Expected calibration error (ECE) {before.ece:.4f} before and "
        f"{after.ece:.4f} after temperature scaling, n = {len(data.table.ids):,}, 15 bins; "
        "the temperatures are fitted on the same images."
    )
    return Section("calibration", "Calibration", [Figure(figures.reliability(before, after), caption)])


def ensemble_members_section(data: RunData) -> Section:
    """Return the section with each member's scores and contribution, and the agreement of the models."""
    table, ensemble, scores = data.table, data.ensemble, data.ensemble_metrics.scores
    logits = {
        name: predictions.logits_for(table.ids) for name, predictions in data.evaluation.member_predictions.items()
    }
    rows: list[list[Cell]] = []
    for name in logits:
        gain = reduction = None
        if others := {other: values for other, values in logits.items() if other != name}:
            without = metrics.score(_out_of_fold(data, Ensemble.fit(others, table.labels)), table.labels)
            gain = Number(100 * (scores.accuracy - without.accuracy), 2)
            reduction = Number(without.log_loss - scores.log_loss)
        fitted = Number(ensemble.temperatures[name]), Number(ensemble.weights[name])
        rows.append([name, *_accuracy_cells(data.out_of_fold_scores(name)), *fitted, gain, reduction])
    header = ["member", "accuracy", "95 % low", "95 % high", "temperature", "weight"]
    caption = (
        f"Out of fold, n = {len(table.ids):,}. Gain: the ensemble compared with an ensemble that is fitted without the "
        "member."
    )
    blocks: list[Block] = [
        Table([*header, "accuracy gain (points)", "log loss reduction"], rows, caption, is_sortable=True)
    ]
    if data.test is not None:
        blocks.append(_agreement(data.test.stats.agreement))
    return Section("members", "Ensemble members", blocks)


def _agreement(agreement: Agreement) -> Matrix:
    rates = np.array(agreement.rates)
    return Matrix(
        caption="Agreement: test images for which two models predict the same class, in percent; "
        f"n = {agreement.num_images:,}, all TTA views.",
        row_title="",
        rows=agreement.models,
        columns=agreement.models,
        values=[[f"{100 * value:.1f}" for value in row] for row in rates],
        shades=np.clip(2 * (1 - rates), 0, 1).tolist(),
    )


def _out_of_fold(data: RunData, ensemble: Ensemble) -> Probabilities:
    """Return out-of-fold probabilities [N, classes] of an ensemble of some of the members."""
    ids, probabilities = ensemble.probabilities(
        (name, data.evaluation.member_predictions[name]) for name in ensemble.weights
    )
    assert np.array_equal(ids, data.table.ids)
    return probabilities


def _accuracy_cells(scores: Accuracy) -> list[Cell]:
    return [Number(scores.accuracy), *map(Number, scores.accuracy_ci95)]
