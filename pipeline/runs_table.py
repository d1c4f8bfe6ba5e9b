"""The ledger's rows -> a table on a terminal, CSV or JSON elsewhere."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields

from rich.console import Console
from rich.table import Table

from pipeline.errors import RunError
from pipeline.ledger import Row

COLUMNS = tuple(field.name for field in fields(Row))


def sorted_runs(rows: Sequence[Row], column: str, only: str) -> list[Row]:
    """Return the rows that hold a text, by a column: numbers and dates from the greatest, texts from A. RunError."""
    if column not in COLUMNS:
        raise RunError(f"--sort {column}: expected one of {', '.join(COLUMNS)}")
    kept = [row for row in rows if only.lower() in f"{row.run} {row.recipe} {row.members}".lower()]
    known = [row for row in kept if getattr(row, column) not in (None, "")]
    unknown = [row for row in kept if getattr(row, column) in (None, "")]
    descending = column not in ("run", "recipe", "members", "status")
    return sorted(known, key=lambda row: getattr(row, column), reverse=descending) + unknown


def print_runs(rows: Sequence[Row], *, as_csv: bool, as_json: bool) -> None:
    """Print to stdout: as told, else a table on a terminal and CSV elsewhere."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif as_csv or not sys.stdout.isatty():
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    else:
        Console().print(runs_table(rows))


def runs_table(rows: Sequence[Row]) -> Table:
    """Return the table that a terminal gets."""
    table = Table()
    for title in ("run", "recipe", "members", "folds", "CV (95 %)", "minutes", "public", "private", "date"):
        table.add_column(title, overflow="fold")
    for row in rows:
        cv = f"{row.cv:.4f} ({row.cv_low:.4f} to {row.cv_high:.4f})" if row.cv is not None else ""
        numbers = [f"{value:.4f}" if value is not None else "" for value in (row.public, row.private)]
        minutes = f"{row.minutes:.1f}" if row.minutes is not None else ""
        if row.status not in ("", "complete"):
            numbers[0] = row.status
        table.add_row(row.run, row.recipe, row.members, str(row.folds), cv, minutes, *numbers, row.date)
    return table
