"""SearchResult -> the report of a hyperparameter search."""

import math
from typing import Any

from pipeline.report import search_figures
from pipeline.report.blocks import Block, Cell, Code, Figure, Number, Page, Section, Stat, Table, Text
from pipeline.tuning.results import Gain, SearchResult, TrialResult, format_value, short_names


def search_page(result: SearchResult) -> Page:
    """Return the report of a search."""
    sections = [_trials_section(result)]
    if result.ranked:
        sections.insert(0, _progress_section(result))
        sections.insert(1, _parameters_section(result))
    return Page(
        title=result.name,
        subtitle=f"hyperparameter search: {result.member}, {result.folds_text}",
        stats=_headline(result),
        sections=[*sections, _evaluation_section(result)],
    )


def _headline(result: SearchResult) -> list[Stat]:
    complete, pruned, failed = (len(result.in_state(state)) for state in ("complete", "pruned", "failed"))
    saved, planned = result.epochs_saved
    stats = [Stat("trials", str(len(result.trials)), f"{complete} complete, {pruned} pruned, {failed} failed")]
    for best in result.ranked[:1]:
        low, high = result.interval(best)
        note = f"trial {best.number}; 95 % CI {low:.4f} to {high:.4f}; optimistic, as the trial was chosen by it"
        stats.append(Stat(f"best {result.objective_name}", f"{best.objective:.4f}", note))
    if result.gain is not None:
        stats.append(_gain_stat(result.gain))
    if result.config_trial is not None and result.gain_over_config is not None:
        note = f"trial {result.config_trial.number} has the config's own values"
        stats.append(Stat("gain over the config", f"{result.gain_over_config:.4f}", note))
    if planned:
        stats.append(Stat("epochs saved by pruning", f"{saved / planned:.0%}", f"{saved:,} of {planned:,}"))
    return stats


def _gain_stat(gain: Gain) -> Stat:
    return Stat("gain over the median trial", f"{abs(gain.best - gain.median):.4f}", gain.explanation)


def _progress_section(result: SearchResult) -> Section:
    number = len(result.ranked)
    blocks: list[Block] = [
        Figure(
            search_figures.objective_by_trial(result),
            f"{result.objective_name} of each trial, out of fold, n = {number} complete trials.",
        )
    ]
    if any(trial.curve for trial in result.trials):
        caption = (
            f"{result.objective_name} on validation images after each epoch; pruned trials are fainter. The values of "
            "the table are of all validation images, with the config's TTA, and may differ from the last epoch's."
        )
        blocks.append(Figure(search_figures.curves(result), caption))
    return Section("progress", "Trials", blocks)


def _parameters_section(result: SearchResult) -> Section:
    if result.importance:
        blocks: list[Block] = [
            Figure(
                search_figures.importance(result),
                "Importance of each parameter for reaching the best tenth of the complete trials (PED-ANOVA).",
            )
        ]
    else:
        blocks = [Text("Too few complete trials for the importance of the parameters.")]
    for number, key in enumerate(result.keys):
        caption = f"{key}: complete trials, n = {len(result.ranked)}; the best one is larger."
        blocks.append(Figure(search_figures.parameter_slice(result, key, number), caption))
    return Section("parameters", "Parameters", blocks)


def _trials_section(result: SearchResult) -> Section:
    others = [trial for trial in result.trials if trial.state != "complete"]
    header = ["trial", "state", result.objective_name, "95 % low", "95 % high", "epochs", *short_names(result.keys), ""]
    rows = [_row(result, trial) for trial in (*result.ranked, *others)]
    return Section("table", "All trials", [Table(header, rows, "The best trials first.", is_sortable=True)])


def _row(result: SearchResult, trial: TrialResult) -> list[Cell]:
    scores: list[Cell] = [None, None, None]
    if trial.objective is not None:
        scores = [Number(trial.objective), *map(Number, result.interval(trial))]
    values = [_cell(trial.values.get(key)) for key in result.keys]
    epochs = f"{trial.num_trained} of {trial.num_epochs}"
    return [trial.number, trial.state, *scores, epochs, *values, trial.reason]


def _cell(value: Any) -> Cell:
    """Return a value of a trial; numbers have four digits and can be sorted."""
    if isinstance(value, float):
        return Number(value, max(0, 3 - math.floor(math.log10(abs(value)))) if value else 1)
    return value if value is None or type(value) is int else format_value(value)


def _evaluation_section(result: SearchResult) -> Section:
    blocks: list[Block] = [Text(result.how_to_evaluate if result.ranked else "No trial is complete yet.")]
    if result.ranked and result.evaluation_command:
        blocks.append(Code("command", result.evaluation_command))
    return Section("evaluation", "The score of the best config", blocks)
