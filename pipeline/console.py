"""Numbers -> the texts that the commands print."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.ledger import Upload

Scores = Mapping[str, Any]


def describe(scores: Scores) -> str:
    """Say accuracy with its interval, log loss and n in one line."""
    low, high = scores["accuracy_95"]
    return (
        f"accuracy {scores['accuracy']:.4f} (95 %: {low:.4f} to {high:.4f}), "
        f"log loss {scores['log_loss']:.4f}, n = {scores['num_images']:,}"
    )


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Lay out folds, members, classes and the confusion matrix."""
    lines = []
    for name, member in metrics["members"].items():
        lines += [f"{name}: fold {fold}: {describe(scores)}" for fold, scores in member["folds"].items()]
        compute, num_folds = member["compute"], len(member["folds"])
        if num_folds:
            lines.append(
                f"{name}: trained folds {num_folds}, {compute['training_seconds'] / 60:.1f} min, "
                f"{compute['training_flop'] / 1e15:.3f} PFLOP, "
                f"{compute['training_flop'] / compute['training_seconds'] / 1e9:.0f} GFLOP/s; "
                f"prediction {compute['prediction_flop_per_image'] / 1e9:.3f} GFLOP an image and fold"
            )
        if "out_of_fold" in member:
            lines.append(f"{name}: out of fold: {describe(member['out_of_fold'])}")
    if "blend" in metrics:
        parts = [
            f"{name} {weight:.3f} at temperature {metrics['temperatures'][name]:.2f}"
            for name, weight in metrics["weights"].items()
        ]
        lines.append(f"blend ({', '.join(parts)}): out of fold: {describe(metrics['blend'])}")
        lines += ["", *_classes(metrics), "", *_confusion(metrics["confusion"], list(metrics["per_class"])), ""]
    if metrics["missing"]:
        lines += [f"not trained yet: {', '.join(metrics['missing'])}"]
    return "\n".join(lines)


def describe_scores(upload: Upload) -> list[str]:
    """Say the scores that an upload has."""
    return [f"{name} {value:.4f}" for name, value in _scores(upload).items()]


def format_upload(upload: Upload, cv: float | None) -> str:
    """Say what became of an upload, beside the cross-validation."""
    parts = [f"submission {upload.ref} of {upload.file}: {upload.status}", *describe_scores(upload)]
    if cv is not None:
        parts.append(f"out of fold {cv:.4f}")
        parts += [f"{name} - out of fold {value - cv:+.4f}" for name, value in _scores(upload).items()]
    return ", ".join([*parts, *([upload.reason] if upload.reason else [])])


def _scores(upload: Upload) -> dict[str, float]:
    both = {"public": upload.public, "private": upload.private}
    return {name: value for name, value in both.items() if value is not None}


def format_comparison(one: str, other: str, found: Mapping[str, Any]) -> str:
    """Lay out how two runs differ."""
    test = found["test"]
    verdict = "more than chance would often give" if test["p_value"] < 0.05 else "no more than chance may give"
    return "\n".join(
        [
            f"recipe, {one} -> {other}:",
            *(f"  {line}" for line in found["recipe"] or ["the same"]),
            *(f"{name}: out of fold: {describe(s)}" for name, s in zip((one, other), found["accuracy"], strict=True)),
            f"of {test['num_images']:,} images only {one} has {test['only_first']:,} right, only {other} "
            f"{test['only_second']:,}: McNemar's exact test p = {test['p_value']:.3g}, {verdict}",
        ]
    )


def _classes(metrics: Mapping[str, Any]) -> list[str]:
    lines = ["class        accuracy  95 % interval        n"]
    for name, scores in metrics["per_class"].items():
        low, high = scores["accuracy_95"]
        lines.append(f"{name:<12} {scores['accuracy']:.4f}    {low:.4f} to {high:.4f}  {scores['num_images']:>6,}")
    return lines


def _confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[str]:
    lines = ["true \\ said  " + " ".join(f"{name[:6]:>6}" for name in class_names)]
    lines += [f"{n:<12} " + " ".join(f"{v:>6}" for v in row) for n, row in zip(class_names, matrix, strict=True)]
    return lines
