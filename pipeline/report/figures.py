"""Numbers -> drawings as SVG. The only file that imports matplotlib.

Colours are names of CSS variables of the page, so that one drawing serves light, dark and print.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from pipeline.report.blocks import Drawing

# matplotlib wants real colours: these stand for the page's and are replaced in the SVG.
INK, FAINT = "#010101", "#020202"
SERIES = tuple(f"#0{number}0{number}0{number}" for number in range(3, 10))
VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # letters stay letters: small, and in the page's font
    "svg.hashsalt": "report",
    "path.simplify": True,
}

REM_PER_INCH = 6.5  # so that letters of 9 points are as tall as the page's captions

Interval = tuple[float, float]


@dataclass(frozen=True)
class RunPoint:
    """A run on the page over all runs; None where it is not known."""

    name: str
    cv: float
    interval: Interval
    public: float | None
    private: float | None
    minutes: float | None


def learning_curve(folds: Mapping[str, Sequence[Mapping[str, float]]], key: str, label: str, name: str) -> Drawing:
    """Draw a column of the histories by epoch: a thin line for each fold, a thick one for their mean."""
    with _figure(f"curve-{name}-{key}", 2.9, 2.6) as canvas:
        values = [np.array([row[key] for row in rows]) for rows in folds.values()]
        epochs = np.arange(1, len(values[0]) + 1)
        marker = "o" if len(epochs) == 1 else None
        for number, line in enumerate(values):
            fold_label = None if number else "each fold"
            canvas.axis.plot(epochs, line, color=SERIES[0], alpha=0.45, linewidth=1, marker=marker, label=fold_label)
        canvas.axis.plot(epochs, np.mean(values, 0), color=SERIES[1], linewidth=2, marker=marker, label="mean")
        canvas.axis.set_xlabel("epoch")
        canvas.axis.set_ylabel(label)
        canvas.axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.axis.legend()
    return canvas.drawing


def accuracies(names: Sequence[str], values: Sequence[float], intervals: Sequence[Interval], what: str) -> Drawing:
    """Draw accuracies with their 95 % intervals, one below the other."""
    with _figure(f"accuracies-{what}", 4.6, 0.6 + 0.27 * len(names)) as canvas:
        axis = canvas.axis
        places = np.arange(len(names))[::-1]
        axis.errorbar(
            values, places, xerr=_around(values, intervals), fmt="o", color=SERIES[0], capsize=3, markersize=4
        )
        axis.set_yticks(places, names)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xlabel("out-of-fold accuracy (bar: 95 % interval)")
    return canvas.drawing


def reliability(before: Mapping[str, Any], after: Mapping[str, Any]) -> Drawing:
    """Draw accuracy against confidence, before and after the temperatures."""
    with _figure("reliability", 4.6, 4.0) as canvas:
        axis = canvas.axis
        axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="as sure as right")
        for colour, found, name in ((SERIES[2], before, "as trained"), (SERIES[0], after, "at the temperatures")):
            label = f"{name}: error {found['error']:.3f}"
            axis.plot(found["confidence"], found["accuracy"], color=colour, marker="o", markersize=4, label=label)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_xlabel("mean confidence (largest probability)")
        axis.set_ylabel("accuracy")
        axis.legend(loc="lower right")
    return canvas.drawing


def histogram(values: NDArray[np.floating], label: str, what: str) -> Drawing:
    """Draw how often values from 0 to 1 occur, in bins of 0.025."""
    with _figure(f"histogram-{what}", 4.5, 2.8) as canvas:
        axis = canvas.axis
        axis.hist(values, bins=np.linspace(0, 1, 41).tolist(), color=SERIES[0])
        axis.set_xlabel(label)
        axis.set_ylabel("images")
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return canvas.drawing


def counts(values: NDArray[np.int64], label: str, what: str) -> Drawing:
    """Draw how often each whole number occurs, with the counts above the bars."""
    numbers, found = np.unique(values, return_counts=True)
    with _figure(f"counts-{what}", 4.5, 2.8) as canvas:
        axis = canvas.axis
        bars = axis.bar([str(number) for number in numbers], found, color=SERIES[0])
        axis.bar_label(bars, [f"{count:,}" for count in found], fontsize=8)
        axis.margins(y=0.12)
        axis.set_xlabel(label)
        axis.set_ylabel("images")
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return canvas.drawing


def shares(names: Sequence[str], groups: Mapping[str, Sequence[float]]) -> Drawing:
    """Draw the shares of the classes, one bar of each group side by side."""
    with _figure("shares", 6.4, 2.9) as canvas:
        axis = canvas.axis
        width = 0.8 / len(groups)
        for number, (group, values) in enumerate(groups.items()):
            places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
            axis.bar(places, np.array(values) * 100, width, color=SERIES[number], label=group)
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axis.set_ylabel("share of the images (%)")
        axis.margins(y=0.25)
        axis.legend(ncols=len(groups))
    return canvas.drawing


def scores_on_kaggle(runs: Sequence[RunPoint]) -> Drawing:
    """Draw public and private scores against cross-validation; a run above the line did better on Kaggle."""
    with _figure("scores", 5.6, 4.2) as canvas:
        axis = canvas.axis
        ends = [run.cv for run in runs] + [s for run in runs for s in (run.public, run.private) if s is not None]
        span = [min(ends) - 0.01, min(max(ends) + 0.01, 1)]
        axis.plot(span, span, color=FAINT, linestyle="--", linewidth=1, label="as expected")
        for kind, marker, colour in (("public", "o", SERIES[0]), ("private", "s", SERIES[1])):
            known = [(run, getattr(run, kind)) for run in runs if getattr(run, kind) is not None]
            if known:
                values, intervals = [run.cv for run, _ in known], [run.interval for run, _ in known]
                axis.errorbar(
                    values, [score for _, score in known], xerr=_around(values, intervals),
                    fmt=marker, color=colour, capsize=3, markersize=5, label=kind,
                )  # fmt: skip
        axis.set_xlabel("out-of-fold accuracy (bar: 95 % interval)")
        axis.set_ylabel("score on Kaggle")
        axis.legend()
    return canvas.drawing


def accuracy_by_minutes(runs: Sequence[RunPoint]) -> Drawing:
    """Draw out-of-fold accuracy against the minutes of training, a name at each run."""
    with _figure("minutes", 6.8, 4.2) as canvas:
        axis = canvas.axis
        known = [(run.minutes, run) for run in runs if run.minutes]
        values = [run.cv for _, run in known]
        minutes = [spent for spent, _ in known]
        axis.errorbar(
            minutes, values, yerr=_around(values, [run.interval for _, run in known]),
            fmt="o", color=SERIES[0], capsize=3, markersize=5,
        )  # fmt: skip
        for spent, run in known:
            axis.annotate(_plain(run.name), (spent, run.cv), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.margins(x=0.15)
        axis.set_xlabel("minutes of training (log scale)")
        axis.set_ylabel("out-of-fold accuracy (bar: 95 % interval)")
    return canvas.drawing


def _around(values: Sequence[float], intervals: Sequence[Interval]) -> NDArray[np.float64]:
    """Return the lengths of the bars below and above values."""
    low, high = np.array(intervals, np.float64).T
    middle = np.array(values, np.float64)
    return np.clip(np.stack([middle - low, high - middle]), 0, None)


def _plain(text: str) -> str:
    """Keep matplotlib from reading a formula in a name."""
    return text.replace("$", r"\$")


@dataclass
class _Canvas:
    axis: Axes
    drawing: Drawing = field(init=False)
    """There when all is drawn."""


@contextmanager
def _figure(name: str, width: float, height: float) -> Iterator[_Canvas]:
    """Give axes to draw on (sizes in inches); afterwards they are an SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        canvas = _Canvas(figure.add_subplot())
        yield canvas
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        canvas.drawing = Drawing(_for_page(svg.getvalue(), name), width * REM_PER_INCH)


def _for_page(svg: str, name: str) -> str:
    """Make a drawing a part of the page: its colours, and ids that no other drawing has."""
    prefix = re.sub(r"[^A-Za-z0-9-]", "-", name)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"#(0[1-9])\1\1\b", lambda found: VARIABLES[found.group()], svg)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
