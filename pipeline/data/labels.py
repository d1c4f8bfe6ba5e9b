"""A CSV of ids and labels, such as the training labels -> checked arrays."""

import io

import numpy as np
import pandas as pd

from pipeline.errors import InputError
from pipeline.task import Ids, Labels, Task

NUM_SHOWN = 3
MAX_HEADER = 1000  # bytes
MAX_ROWS = 1_000_000


def read_table(data: bytes, name: str, task: Task) -> pd.DataFrame:
    """Read a CSV of ids and labels as text; row i is on line i + 2. Raises InputError that names the file."""
    if len(data[:MAX_HEADER].splitlines()) < 2 and len(data) > MAX_HEADER:
        raise InputError(f"{name} starts with a line of more than {MAX_HEADER} bytes, expected {task.csv_header!r}")
    num_lines = data.count(b"\n") + data.count(b"\r")
    if num_lines > 2 * MAX_ROWS:
        raise InputError(f"{name} has {num_lines:,} line ends, expected at most {MAX_ROWS:,} rows")
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{name} can't be read as a CSV in UTF-8: {' '.join(str(error).split())}") from None
    if tuple(table.columns) != task.csv_columns:
        found = ",".join(map(str, table.columns))[:80]
        raise InputError(f"{name} has the header {found!r}, expected {task.csv_header!r}")
    return table


def parse_labels(data: bytes, name: str, task: Task) -> Labels:
    """Read and validate a CSV of ids and class names.

    Raises InputError that names the file, the invalid values and their lines.
    """
    table = read_table(data, name, task)
    if table.empty:
        raise InputError(f"{name} has a header but no rows, expected a row per image")
    id_texts, class_names = table[task.id_column], table[task.label_column]
    is_valid = id_texts.str.fullmatch(task.id_pattern)
    if not is_valid.all():
        invalid = _values_and_lines(id_texts, ~is_valid)
        raise InputError(f"{name}: invalid id {invalid}, expected whole numbers that match {task.id_pattern}")
    is_duplicate = id_texts.duplicated()
    if is_duplicate.any():
        raise InputError(f"{name}: duplicate id {_values_and_lines(id_texts, is_duplicate)}, expected each id once")
    is_known = class_names.isin(task.class_names)
    if not is_known.all():
        unknown = _values_and_lines(class_names, ~is_known)
        raise InputError(f"{name}: the label {unknown} is not one of {', '.join(task.class_names)}")
    ids = id_texts.to_numpy(dtype=np.int64)
    labels = pd.Categorical(class_names, categories=task.class_names).codes.astype(np.int64)
    order = np.argsort(ids)
    return Labels(ids[order], labels[order])


def parse_ids(data: bytes, name: str, task: Task) -> Ids:
    """Return the ids of a CSV such as the sample submission, ascending, validated like `parse_labels`."""
    return parse_labels(data, name, task).ids


def _values_and_lines(column: "pd.Series[str]", is_selected: "pd.Series[bool]") -> str:
    """Format the first selected values with their line numbers."""
    rows = np.flatnonzero(is_selected)
    shown = ", ".join(f"{column.iloc[row]!r} (line {row + 2})" for row in rows[:NUM_SHOWN])
    return shown + (f" and {len(rows) - NUM_SHOWN} more" if len(rows) > NUM_SHOWN else "")
