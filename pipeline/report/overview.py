"""The ledger -> the page over all runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pipeline.config import Json
from pipeline.ledger import RunRow
from pipeline.report import figures
from pipeline.report.blocks import Block, Cell, Figure, Link, Number, Page, Section, Table, Text
from pipeline.report.figures import RunPoint
from pipeline.tuning.results import short_names


def all_runs_page(rows: Sequence[RunRow], reports: Mapping[str, str], searches: Mapping[str, Json]) -> Page:
    """Return the page over all runs; those without a cross-validation are only in the table.

    `reports` has the addresses of the runs' own reports, where they exist; `searches` the settings of hyperparameter
    searches by the address of their report.
    """
    evaluated = [
        RunPoint(row.run, row.cv, (row.cv_low, row.cv_high), row.public, row.private, row.minutes)
        for row in rows
        if row.cv is not None and row.cv_low is not None and row.cv_high is not None
    ]
    scored = [run for run in evaluated if run.public is not None or run.private is not None]
    on_kaggle: Block = Text("No run with a cross-validation has a Kaggle score yet.")
    if scored:
        on_kaggle = Figure(figures.kaggle_scores(scored), f"Runs with a Kaggle score: n = {len(scored)}.")
    by_time: Block = Text("No run is trained on all of its folds yet.")
    timed = [run for run in evaluated if run.minutes]
    if timed:
        caption = f"Minutes of all epochs of all folds and refits, n = {len(timed)} runs."
        by_time = Figure(figures.accuracy_by_minutes(timed), caption)
    table = Table(
        [field.replace("_", " ") for field in asdict(rows[0])] if rows else [],
        [_cells(row, reports) for row in rows],
        "Click on a column's header to sort.",
        is_sortable=True,
    )
    return Page(
        title="All runs",
        subtitle=f"{len(rows)} runs, {len(scored)} of them scored by Kaggle",
        stats=[],
        sections=[
            Section("runs", "Runs", [table]),
            Section("scores", "Cross-validation and Kaggle", [on_kaggle]),
            Section("minutes", "Accuracy and time", [by_time]),
            *_search_sections(searches),
        ],
    )


def _search_sections(searches: Mapping[str, Json]) -> list[Section]:
    rows: list[list[Cell]] = [
        [
            Link(address.partition("/")[0], address),
            settings["member"],
            ", ".join(map(str, settings["folds"])),
            settings["objective"].replace("_", " "),
            ", ".join(short_names(list(settings["space"]))),
        ]
        for address, settings in searches.items()
    ]
    table = Table(["search", "member", "folds", "objective", "parameters"], rows)
    return [Section("searches", "Hyperparameter searches", [table])] if rows else []


def _cells(row: RunRow, reports: Mapping[str, str]) -> list[Cell]:
    values = [Number(value) if isinstance(value, float) else value for value in asdict(row).values()]
    name = Link(row.run, reports[row.run]) if row.run in reports else row.run
    return [name, *values[1:]]
