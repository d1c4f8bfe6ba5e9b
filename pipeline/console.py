"""Results -> the texts and tables that commands print."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import RunError
from pipeline.ledger import RunRow, Upload
from pipeline.results import (
    Accuracy,
    Classification,
    Comparison,
    EnsembleMetrics,
    ExportedFile,
    MemberMetrics,
    Metrics,
    Scores,
)

COLUMNS = tuple(field.name for field in fields(RunRow))
SIGNIFICANCE = 0.05
MIN_TABLE_WIDTH = 80  # characters


def format_scores(scores: Scores) -> str:
    """Format accuracy with its confidence interval, log loss and n."""
    low, high = scores.accuracy_ci95
    return (
        f"accuracy {scores.accuracy:.4f} (95 % CI {low:.4f} to {high:.4f}), "
        f"log loss {scores.log_loss:.4f}, n = {scores.num_images:,}"
    )


def format_metrics(metrics: Metrics) -> str:
    """Format the scores of folds, members, ensemble and classes, and the confusion matrix."""
    lines = [line for name, member in metrics.members.items() for line in _member_lines(name, member)]
    if metrics.ensemble is not None:
        lines += _ensemble_lines(metrics.ensemble)
    if untrained := [*metrics.untrained_folds, *metrics.untrained_refits]:
        lines.append(f"not trained yet: {', '.join(untrained)}")
    return "\n".join(lines)


def format_upload(upload: Upload, out_of_fold: float | None) -> str:
    """Format an upload next to the out-of-fold accuracy of its run."""
    parts = [f"submission {upload.ref} of {upload.file}: {upload.status}"]
    parts += [f"{name} {score:.4f}" for name, score in upload.scores.items()]
    if out_of_fold is not None:
        parts.append(f"out of fold {out_of_fold:.4f}")
        parts += [f"{name} - out of fold {score - out_of_fold:+.4f}" for name, score in upload.scores.items()]
    return ", ".join([*parts, *([upload.reason] if upload.reason else [])])


def format_export(exported: ExportedFile) -> str:
    """Format what was written, and how well it agrees with the pipeline."""
    return (
        f"{exported.path}: {pluralize(exported.num_models, 'model')}, {exported.num_bytes / 1e6:.1f} MB\n"
        f"largest difference from the pipeline's probabilities on {exported.num_images:,} images: "
        f"{exported.max_difference:.1e}"
    )


def format_comparison(first: str, second: str, comparison: Comparison) -> str:
    """Format how two runs differ."""
    test = comparison.test
    verdict = "significant" if test.p_value < SIGNIFICANCE else "not significant"
    return "\n".join(
        [
            f"config, {first} -> {second}:",
            *(f"  {line}" for line in comparison.config or ["no difference"]),
            *(
                f"{name}: out of fold: {format_scores(scores)}"
                for name, scores in zip((first, second), comparison.scores, strict=True)
            ),
            f"of {test.num_images:,} images only {first} classifies {test.only_first:,} correctly, only {second} "
            f"{test.only_second:,}: McNemar's exact test p = {test.p_value:.3g}, {verdict} at 5 %",
        ]
    )


def sorted_runs(rows: Sequence[RunRow], column: str, text: str) -> list[RunRow]:
    """Return the rows that contain a text, sorted by a column: numbers and dates descending, texts ascending.

    Raises RunError for an unknown column.
    """
    if column not in COLUMNS:
        raise RunError(f"--sort {column}: expected one of {', '.join(COLUMNS)}")
    matching = [row for row in rows if text.lower() in f"{row.run} {row.config} {row.members}".lower()]
    known = [row for row in matching if getattr(row, column) not in (None, "")]
    unknown = [row for row in matching if getattr(row, column) in (None, "")]
    descending = column not in ("run", "config", "members", "status")
    return sorted(known, key=lambda row: getattr(row, column), reverse=descending) + unknown


def print_runs(rows: Sequence[RunRow], *, as_csv: bool, as_json: bool) -> None:
    """Print to stdout, by default a table on a terminal and CSV elsewhere."""
    _print_rows(map(asdict, rows), COLUMNS, lambda: runs_table(rows), as_csv=as_csv, as_json=as_json)


def print_classifications(rows: Iterable[Classification], *, as_csv: bool, as_json: bool) -> None:
    """Print to stdout, by default a table on a terminal and CSV, row by row, elsewhere."""
    columns = tuple(Classification.model_fields)
    values = (row.model_dump() for row in rows)
    _print_rows(values, columns, lambda: classifications_table(rows), as_csv=as_csv, as_json=as_json)


def _print_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    table: Callable[[], Table],
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    if as_json:
        print(json.dumps(list(rows), indent=2))
    elif as_csv or not sys.stdout.isatty():
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        console = Console()
        # A narrower table would have empty columns; a terminal wraps its lines.
        console.width = max(console.width, MIN_TABLE_WIDTH)
        console.print(table())


def classifications_table(rows: Iterable[Classification]) -> Table:
    """Return classified images as a table for a terminal."""
    table = Table()
    for title in ("file", "label", "probability", "second label", "probability"):
        table.add_column(title, overflow="fold")
    for row in rows:
        # A path in brackets is not markup.
        file = Text(row.file)
        table.add_row(file, row.label, f"{row.probability:.4f}", row.second_label, f"{row.second_probability:.4f}")
    return table


def runs_table(rows: Sequence[RunRow]) -> Table:
    """Return the ledger as a table for a terminal."""
    table = Table()
    for title in ("run", "config", "members", "folds", "CV (95 % CI)", "minutes", "public", "private", "date"):
        table.add_column(title, overflow="fold")
    for row in rows:
        cv = f"{row.cv:.4f} ({row.cv_low:.4f} to {row.cv_high:.4f})" if row.cv is not None else ""
        scores = [f"{score:.4f}" if score is not None else "" for score in (row.public, row.private)]
        minutes = f"{row.minutes:.1f}" if row.minutes is not None else ""
        if row.status not in ("", "complete"):
            scores[0] = row.status
        table.add_row(
            row.run,
            row.config,
            row.members,
            f"{row.folds} + {pluralize(row.refits, 'refit')}" if row.refits else str(row.folds),
            cv,
            minutes,
            *scores,
            row.date,
        )
    return table


def _member_lines(name: str, member: MemberMetrics) -> list[str]:
    lines = [f"{name} fold {fold}: {format_scores(scores)}" for fold, scores in member.folds.items()]
    compute = member.compute
    if member.folds:
        lines.append(
            f"{name}: {_count_trained(member)}, {compute.training_seconds / 60:.1f} min, "
            f"{compute.training_flops / 1e15:.3f} PFLOP, "
            f"{compute.training_flops / compute.training_seconds / 1e9:.0f} GFLOP/s; "
            f"prediction {compute.prediction_flops_per_image / 1e9:.3f} GFLOP per image and model"
        )
    if member.out_of_fold is not None:
        lines.append(f"{name} out of fold: {format_scores(member.out_of_fold)}")
    return lines


def _count_trained(member: MemberMetrics) -> str:
    refits = f" and {pluralize(len(member.refits), 'refit')}" if member.refits else ""
    return f"{pluralize(len(member.folds), 'fold')}{refits} trained"


def pluralize(count: int, noun: str) -> str:
    """Return a number with its noun: `1 fold`, `2 folds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _ensemble_lines(ensemble: EnsembleMetrics) -> list[str]:
    members = [
        f"{name}: weight {weight:.3f}, temperature {ensemble.temperatures[name]:.2f}"
        for name, weight in ensemble.weights.items()
    ]
    return [
        f"ensemble out of fold: {format_scores(ensemble.scores)} ({'; '.join(members)})",
        "",
        *_class_lines(ensemble.per_class),
        "",
        *_confusion_lines(ensemble.confusion_matrix, list(ensemble.per_class)),
        "",
    ]


def _class_lines(per_class: Mapping[str, Accuracy]) -> list[str]:
    lines = ["class        accuracy  95 % CI              n"]
    for name, scores in per_class.items():
        low, high = scores.accuracy_ci95
        lines.append(f"{name:<12} {scores.accuracy:.4f}    {low:.4f} to {high:.4f}  {scores.num_images:>6,}")
    return lines


def _confusion_lines(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[str]:
    lines = ["true \\ predicted  " + " ".join(f"{name[:6]:>6}" for name in class_names)]
    return lines + [
        f"{name:<17} " + " ".join(f"{count:>6}" for count in row) for name, row in zip(class_names, matrix, strict=True)
    ]
