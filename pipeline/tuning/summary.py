"""SearchResult -> the text that `tune` prints."""

from pipeline.console import pluralize
from pipeline.tuning.results import Gain, SearchResult, format_value, short_names

NUM_BEST_TRIALS = 10  # that are printed


def format_search(result: SearchResult) -> str:
    """Format the best trials of a search, the importance of its parameters, and what chance alone would give."""
    counts = {state: len(result.in_state(state)) for state in ("complete", "pruned", "failed", "running")}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    saved, planned = result.epochs_saved
    lines = [
        f"search {result.name}: {pluralize(len(result.trials), 'trial')} of {result.member} on {result.folds_text} "
        f"({states})",
        *_trial_lines(result),
    ]
    if result.importance:
        names = dict(zip(result.keys, short_names(result.keys), strict=True))
        shares = ", ".join(f"{names[key]} {share:.2f}" for key, share in result.importance.items())
        lines.append(f"importance: {shares}")
    if counts["pruned"]:
        lines.append(f"pruning saved {saved:,} of {planned:,} epochs ({saved / planned:.0%})")
    if result.gain is not None:
        lines.append(format_gain(result.gain, result.objective_name))
    lines += _config_trial_lines(result)
    if result.ranked:
        lines += [result.how_to_evaluate, *([f"  {result.evaluation_command}"] if result.evaluation_command else [])]
    return "\n".join(lines)


def format_gain(gain: Gain, objective: str) -> str:
    """Format the gain of the best trial, and how much of it chance alone would give."""
    return (
        f"best {objective} {gain.best:.4f}, median {gain.median:.4f}: a gain of {abs(gain.best - gain.median):.4f}. "
        f"{gain.explanation[0].upper()}{gain.explanation[1:]}"
    )


def _config_trial_lines(result: SearchResult) -> list[str]:
    trial, gain = result.config_trial, result.gain_over_config
    if trial is None or gain is None:
        return []
    best = f"{gain:.4f} {'below' if result.is_maximized else 'above'} the best" if gain else "none is better"
    return [f"trial {trial.number} has the config's own values: {result.objective_name} {trial.objective:.4f}, {best}"]


def _trial_lines(result: SearchResult) -> list[str]:
    best = result.ranked[:NUM_BEST_TRIALS]
    if not best:
        return ["no trial is complete yet"]
    header = ["trial", result.objective_name, "95 % CI", "epochs", *short_names(result.keys)]
    rows = [header]
    for trial in best:
        low, high = result.interval(trial)
        values = [format_value(trial.values.get(key)) for key in result.keys]
        interval = f"{low:.4f} to {high:.4f}"
        rows.append([str(trial.number), f"{trial.objective:.4f}", interval, str(trial.num_trained), *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
