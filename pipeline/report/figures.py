"""Numbers -> plots as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from pipeline.report.blocks import Drawing
from pipeline.report.canvas import FAINT, SERIES, canvas, plain_text
from pipeline.results import Interval, ReliabilityDiagram


@dataclass(frozen=True)
class RunPoint:
    """A run on the page over all runs; None: unknown."""

    name: str
    cv: float
    interval: Interval
    public: float | None
    private: float | None
    minutes: float | None


def learning_curves(
    folds: Mapping[int, Sequence[Mapping[str, float]]], columns: Mapping[str, str], label: str, name: str
) -> Drawing:
    """Plot columns of histories, each with its label, by epoch: a thin line for each fold, a thick one for the mean.

    Epochs without a value, which were not validated, are left out.
    """
    with canvas(f"curve-{name}-{'-'.join(columns)}", 2.9, 2.6) as result:
        for colour, (key, column_label) in zip(SERIES, columns.items(), strict=False):
            epochs = [row["epoch"] for row in next(iter(folds.values())) if key in row]
            curves = [[row[key] for row in rows if key in row] for rows in folds.values()]
            marker = "o" if len(epochs) == 1 else None
            if len(curves) > 1:
                for curve in curves:
                    result.axes.plot(epochs, curve, color=colour, alpha=0.45, linewidth=1, marker=marker)
            mean = np.mean(curves, 0)
            result.axes.plot(epochs, mean, color=colour, linewidth=2, marker=marker, label=column_label)
        result.axes.set_xlabel("epoch")
        result.axes.set_ylabel(label)
        result.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        result.axes.legend()
    return result.drawing


def accuracies(labels: Sequence[str], values: Sequence[float], intervals: Sequence[Interval], name: str) -> Drawing:
    """Plot accuracies with their 95 % confidence intervals, one below the other."""
    with canvas(f"accuracies-{name}", 4.6, 0.6 + 0.27 * len(labels)) as result:
        axes = result.axes
        positions = np.arange(len(labels))[::-1]
        axes.errorbar(
            values, positions, xerr=error_bars(values, intervals), fmt="o", color=SERIES[0], capsize=3, markersize=4
        )
        axes.set_yticks(positions, labels)
        axes.set_ylim(-0.6, len(labels) - 0.4)
        axes.set_xlabel("out-of-fold accuracy (bar: 95 % CI)")
    return result.drawing


def reliability(uncalibrated: ReliabilityDiagram, calibrated: ReliabilityDiagram) -> Drawing:
    """Plot accuracy against confidence, without and with temperature scaling."""
    with canvas("reliability", 4.6, 4.0) as result:
        axes = result.axes
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="perfect calibration")
        curves = ((SERIES[2], uncalibrated, "uncalibrated"), (SERIES[0], calibrated, "temperature scaling"))
        for colour, curve, name in curves:
            label = f"{name}: ECE {curve.ece:.3f}"
            axes.plot(curve.confidence, curve.accuracy, color=colour, marker="o", markersize=4, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("mean confidence (largest probability)")
        axes.set_ylabel("accuracy")
        axes.legend(loc="lower right")
    return result.drawing


def histogram(values: NDArray[np.floating], label: str, name: str) -> Drawing:
    """Plot a histogram of values from 0 to 1, in bins of 0.025."""
    with canvas(f"histogram-{name}", 4.5, 2.8) as result:
        axes = result.axes
        axes.hist(values, bins=np.linspace(0, 1, 41).tolist(), color=SERIES[0])
        axes.set_xlabel(label)
        axes.set_ylabel("images")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return result.drawing


def counts(values: NDArray[np.int64], label: str, name: str) -> Drawing:
    """Plot how often each integer occurs, with the counts above the bars."""
    numbers, frequencies = np.unique(values, return_counts=True)
    with canvas(f"counts-{name}", 4.5, 2.8) as result:
        axes = result.axes
        bars = axes.bar([str(number) for number in numbers], frequencies, color=SERIES[0])
        axes.bar_label(bars, [f"{count:,}" for count in frequencies], fontsize=8)
        axes.margins(y=0.12)
        axes.set_xlabel(label)
        axes.set_ylabel("images")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return result.drawing


def class_shares(class_names: Sequence[str], groups: Mapping[str, Sequence[float]]) -> Drawing:
    """Plot the share of each class, with the groups' bars side by side."""
    with canvas("shares", 6.4, 2.9) as result:
        axes = result.axes
        width = 0.8 / len(groups)
        for number, (group, values) in enumerate(groups.items()):
            positions = np.arange(len(class_names)) + (number - (len(groups) - 1) / 2) * width
            axes.bar(positions, np.array(values) * 100, width, color=SERIES[number], label=group)
        axes.set_xticks(range(len(class_names)), class_names, rotation=30, ha="right")
        axes.set_ylabel("share of the images (%)")
        axes.margins(y=0.25)
        axes.legend(ncols=len(groups))
    return result.drawing


def kaggle_scores(runs: Sequence[RunPoint]) -> Drawing:
    """Plot public and private scores against the cross-validation; runs above the line score higher on Kaggle."""
    with canvas("scores", 5.6, 4.2) as result:
        axes = result.axes
        ends = [run.cv for run in runs] + [s for run in runs for s in (run.public, run.private) if s is not None]
        span = [min(ends) - 0.01, min(max(ends) + 0.01, 1)]
        axes.plot(span, span, color=FAINT, linestyle="--", linewidth=1, label="equal")
        for leaderboard, marker, colour in (("public", "o", SERIES[0]), ("private", "s", SERIES[1])):
            scored = [run for run in runs if getattr(run, leaderboard) is not None]
            if scored:
                values = [run.cv for run in scored]
                axes.errorbar(
                    values, [getattr(run, leaderboard) for run in scored],
                    xerr=error_bars(values, [run.interval for run in scored]),
                    fmt=marker, color=colour, capsize=3, markersize=5, label=leaderboard,
                )  # fmt: skip
        axes.set_xlabel("out-of-fold accuracy (bar: 95 % CI)")
        axes.set_ylabel("Kaggle score")
        axes.legend()
    return result.drawing


def accuracy_by_minutes(runs: Sequence[RunPoint]) -> Drawing:
    """Plot out-of-fold accuracy against the minutes of training, with each run's name."""
    with canvas("minutes", 6.8, 4.2) as result:
        axes = result.axes
        timed = [(run.minutes, run) for run in runs if run.minutes]
        values = [run.cv for _, run in timed]
        axes.errorbar(
            [minutes for minutes, _ in timed], values,
            yerr=error_bars(values, [run.interval for _, run in timed]),
            fmt="o", color=SERIES[0], capsize=3, markersize=5,
        )  # fmt: skip
        for minutes, run in timed:
            position = (minutes, run.cv)
            axes.annotate(plain_text(run.name), position, xytext=(6, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.margins(x=0.15)
        axes.set_xlabel("minutes of training (log scale)")
        axes.set_ylabel("out-of-fold accuracy (bar: 95 % CI)")
    return result.drawing


def error_bars(values: Sequence[float], intervals: Sequence[Interval]) -> NDArray[np.float64]:
    """Return the lengths [2, N] of the bars below and above the values."""
    low, high = np.array(intervals, np.float64).T
    middle = np.array(values, np.float64)
    return np.clip(np.stack([middle - low, high - middle]), 0, None)
