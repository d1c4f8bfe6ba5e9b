"""The trials of a hyperparameter search -> plots as SVG."""

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from pipeline.report.blocks import Drawing
from pipeline.report.canvas import FAINT, SERIES, canvas, plain_text
from pipeline.report.figures import error_bars
from pipeline.tuning.results import SearchResult, TrialResult, format_value, short_names

LOG_RATIO = 20.0  # of the largest value to the smallest; from here on a parameter has a logarithmic axis


def objective_by_trial(result: SearchResult) -> Drawing:
    """Plot the objective of complete trials in their order, the last values of pruned ones, and the best so far."""
    with canvas("objective", 6.4, 3.2) as drawn:
        axes, complete = drawn.axes, result.in_state("complete")
        values = [trial.objective or 0.0 for trial in complete]
        numbers = [trial.number for trial in complete]
        bars = error_bars(values, [result.interval(trial) for trial in complete])
        axes.errorbar(numbers, values, yerr=bars, fmt="o", color=SERIES[0], capsize=2, markersize=4, label="complete")
        pruned = [trial for trial in result.in_state("pruned") if trial.curve]
        if pruned:
            last = [list(trial.curve.values())[-1] for trial in pruned]
            axes.plot([trial.number for trial in pruned], last, "x", color=FAINT, label="pruned: last value")
        best, choose = list[float](), max if result.is_maximized else min
        for value in values:
            best.append(choose([value, *best[-1:]]))
        axes.step(numbers, best, where="post", color=SERIES[1], linewidth=1.5, label="best so far")
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{result.objective_name} (bar: 95 % CI)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return drawn.drawing


def importance(result: SearchResult) -> Drawing:
    """Plot the importance of each parameter, the largest on top."""
    names = dict(zip(result.keys, short_names(result.keys), strict=True))
    shares = list(result.importance.items())[::-1]
    with canvas("importance", 4.6, 0.7 + 0.27 * len(shares)) as drawn:
        drawn.axes.barh([plain_text(names[key]) for key, _ in shares], [share for _, share in shares], color=SERIES[0])
        drawn.axes.set_xlabel("share of the importance")
        drawn.axes.set_xlim(0, 1)
    return drawn.drawing


def curves(result: SearchResult) -> Drawing:
    """Plot the objective on the validation images by epoch: pruned trials fainter, the best one thicker."""
    with canvas("curves", 6.4, 3.4) as drawn:
        axes, best = drawn.axes, result.ranked[:1]
        seen = set[str]()
        for trial in sorted(result.trials, key=lambda trial: (trial in best, trial.state != "pruned")):
            kind = "best" if trial in best else trial.state
            colour, alpha, width = {
                "best": (SERIES[1], 1.0, 2.2),
                "complete": (SERIES[0], 0.6, 1.0),
            }.get(kind, (SERIES[0], 0.2, 1.0))
            marker = "o" if len(trial.curve) == 1 else None
            label = None if kind in seen else kind
            axes.plot(
                list(trial.curve), list(trial.curve.values()),
                color=colour, alpha=alpha, linewidth=width, marker=marker, markersize=3, label=label,
            )  # fmt: skip
            seen.add(kind)
        axes.set_xlabel("epoch" if len(result.folds) == 1 else "epoch, the folds one after the other")
        axes.set_ylabel(f"{result.objective_name}, validation images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return drawn.drawing


def parameter_slice(result: SearchResult, key: str, number: int) -> Drawing:
    """Plot the objective of the complete trials against a parameter, which has this number among the keys."""
    trials = [trial for trial in result.in_state("complete") if key in trial.values]
    best = result.ranked[:1]
    values = [trial.values[key] for trial in trials]
    with canvas(f"slice-{number}", 2.9, 2.6) as drawn:
        axes = drawn.axes
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            if min(values) > 0 and max(values) / min(values) >= LOG_RATIO:
                axes.set_xscale("log")
            positions: Sequence[Any] = values
        else:
            names = sorted({format_value(value) for value in values})
            positions = [names.index(format_value(value)) for value in values]
            axes.set_xticks(range(len(names)), [plain_text(name) for name in names], rotation=30, ha="right")
        _scatter(axes, positions, trials, best)
        axes.set_xlabel(plain_text(short_names(result.keys)[number]))
        axes.set_ylabel(result.objective_name)
    return drawn.drawing


def _scatter(axes: Any, positions: Sequence[Any], trials: Sequence[TrialResult], best: Sequence[TrialResult]) -> None:
    for position, trial in zip(positions, trials, strict=True):
        colour, size = (SERIES[1], 6) if trial in best else (SERIES[0], 4)
        axes.plot(position, trial.objective, "o", color=colour, markersize=size)
