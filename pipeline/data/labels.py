"""A CSV of ids and labels, such as the training labels -> checked arrays."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from pipeline.csv_rows import CsvError, count_line_ends, line_at, read_rows
from pipeline.errors import InputError
from pipeline.task import Ids, Labels, Task

NUM_SHOWN = 3
MAX_TEXT = 80  # characters of a row or a value that an error shows
MAX_HEADER = 1000  # bytes
MAX_ROWS = 500_000


def read_table(data: bytes, name: str, task: Task) -> pd.DataFrame:
    """Read a CSV of ids and labels as text; the index is the line of each row. Blank lines are left out.

    Raises InputError that names the file and the lines.
    """
    if len(data) > MAX_HEADER and not count_line_ends(data[:MAX_HEADER]):
        raise InputError(f"{name} starts with a line of more than {MAX_HEADER} bytes, expected {task.csv_header!r}")
    num_lines = count_line_ends(data)
    if num_lines > MAX_ROWS:
        raise InputError(f"{name} has {num_lines:,} lines, expected at most {MAX_ROWS:,}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = line_at(error.object, error.start), error.object[error.start]
        raise InputError(
            f"{name} can't be read as a CSV in UTF-8: invalid byte {byte:#04x} (line {line}); save it as UTF-8"
        ) from None
    try:
        return _parse_rows(text, name, task)
    except CsvError as error:
        raise InputError(f"{name} can't be read as a CSV: {error}") from None


def _parse_rows(text: str, name: str, task: Task) -> pd.DataFrame:
    numbered = ((line, row) for line, row in read_rows(text) if len(row) > 1 or "".join(row).strip())
    _, header = next(numbered, (1, list[str]()))
    if not header:
        raise CsvError(f"it is empty, expected the header {task.csv_header!r}")
    if tuple(header) != task.csv_columns:
        raise InputError(f"{name} has the header {','.join(header)[:MAX_TEXT]!r}, expected {task.csv_header!r}")
    lines, columns, malformed = list[int](), (list[str](), list[str]()), []
    for line, row in numbered:
        if len(row) == len(columns):
            lines.append(line)
            for column, field in zip(columns, row, strict=True):
                column.append(field)
        else:
            malformed.append((line, ",".join(row)))
    if malformed:
        raise CsvError(f"expected the fields {task.csv_header} in each row, found {_values_and_lines(malformed)}")
    return pd.DataFrame(dict(zip(task.csv_columns, columns, strict=True)), index=lines, dtype=str)


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
        invalid = _values_and_lines(id_texts[~is_valid].items())
        raise InputError(f"{name}: invalid id {invalid}, expected whole numbers that match {task.id_pattern}")
    is_duplicate = id_texts.duplicated()
    if is_duplicate.any():
        duplicates = _values_and_lines(id_texts[is_duplicate].items())
        raise InputError(f"{name}: duplicate id {duplicates}, expected each id once")
    is_known = class_names.isin(task.class_names)
    if not is_known.all():
        unknown = _values_and_lines(class_names[~is_known].items())
        raise InputError(f"{name}: the label {unknown} is not one of {', '.join(task.class_names)}")
    ids = id_texts.to_numpy(dtype=np.int64)
    labels = pd.Categorical(class_names, categories=task.class_names).codes.astype(np.int64)
    order = np.argsort(ids)
    return Labels(ids[order], labels[order])


def parse_ids(data: bytes, name: str, task: Task) -> Ids:
    """Return the ids of a CSV such as the sample submission, ascending, validated like `parse_labels`."""
    return parse_labels(data, name, task).ids


def _values_and_lines(numbered: Iterable[tuple[Any, str]]) -> str:
    """Format the first of (line, text)."""
    numbered = list(numbered)
    shown = ", ".join(f"{text[:MAX_TEXT]!r} (line {line})" for line, text in numbered[:NUM_SHOWN])
    return shown + (f" and {len(numbered) - NUM_SHOWN} more" if len(numbered) > NUM_SHOWN else "")
