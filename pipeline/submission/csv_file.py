"""Ids + classes -> submission.csv, and the check of any submission.csv."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.task import CLASS_NAMES, CSV_COLUMNS
from pipeline.errors import InputError
from pipeline.files import write_text

MAX_SHOWN = 3
MAX_BYTES = 1 << 25  # of a file that is looked at; 300,000 rows have 5 MB
MAX_EXTRA_LINES = 100_000
HEADER = ",".join(CSV_COLUMNS)


def write_submission(path: Path, ids: NDArray[np.int64], classes: NDArray[np.int64]) -> None:
    """Write `id,label` rows of ids [N] and classes [N] in ascending order of the ids, atomically, checked before."""
    order = np.argsort(ids)
    rows = [f"{number},{CLASS_NAMES[kind]}\n" for number, kind in zip(ids[order], classes[order], strict=True)]
    data = HEADER + "\n" + "".join(rows)
    problems = find_problems(data.encode(), ids)
    if problems:
        raise InputError(f"{path} is not written, Kaggle would refuse it: {'; '.join(problems)}")
    write_text(path, data)


def check_submission(path: Path, expected_ids: NDArray[np.int64]) -> list[str]:
    """Return every way in which Kaggle would refuse a file; an empty list is a good file. Raises InputError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    return find_problems(data, expected_ids)


def check_labels(path: Path, ids: NDArray[np.int64], classes: NDArray[np.int64]) -> list[str]:
    """Return where a good submission says something else than classes [N] of ids [N], the test predictions."""
    expected = {str(number): CLASS_NAMES[kind] for number, kind in zip(ids, classes, strict=True)}
    with path.open(newline="", encoding="utf-8") as file:
        other = [(line, f"{i},{label}") for line, (i, label) in _numbered_rows(file) if expected.get(i) != label]
    return (
        [f"the run predicted something else than {_shown(other)}; python run.py predict writes it again"]
        if other
        else []
    )


def _numbered_rows(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    rows = enumerate(csv.reader(file), start=1)
    next(rows)
    yield from rows


def find_problems(data: bytes, expected_ids: NDArray[np.int64]) -> list[str]:
    """Check the bytes of a submission against the test ids [N]: one line per kind of fault, the first places named."""
    if len(data) > MAX_BYTES:
        return [f"it has more than {MAX_BYTES:,} bytes"]
    num_lines = max(data.count(b"\n"), data.count(b"\r"))
    if num_lines > 2 * len(expected_ids) + MAX_EXTRA_LINES:
        return [f"it has {num_lines:,} lines, expected {len(expected_ids) + 1:,}"]
    if data.startswith(b"\xef\xbb\xbf"):
        return ["it begins with a byte order mark; save it as UTF-8 without BOM"]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return [f"line {line} is not UTF-8 (byte {data[error.start]:#04x})"]
    if "\0" in text:
        return [f"line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL byte"]
    return list(_problems_of_rows(text, expected_ids))


def _problems_of_rows(text: str, expected_ids: NDArray[np.int64]) -> Iterator[str]:
    lines = csv.reader(text.splitlines())
    try:
        header, *rows = lines
    except ValueError:
        yield f"it is empty, expected the header {HEADER!r}"
        return
    except csv.Error as error:
        yield f"line {lines.line_num} can't be read as CSV: {error}"
        return
    if header != list(CSV_COLUMNS):
        yield f"the header is {','.join(header)[:80]!r}, expected {HEADER!r}"
    if len(rows) != len(expected_ids):
        yield f"it has {len(rows):,} rows, expected {len(expected_ids):,}"
    numbered = list(enumerate(rows, start=2))
    odd = [(line, ",".join(row)) for line, row in numbered if len(row) != len(CSV_COLUMNS)]
    if odd:
        yield f"not two columns: {_shown(odd)}"
    pairs = [(line, row) for line, row in numbered if len(row) == len(CSV_COLUMNS)]
    labels = [(line, row[1]) for line, row in pairs if row[1] not in CLASS_NAMES]
    if labels:
        yield f"unknown labels: {_shown(labels)}; expected one of {', '.join(CLASS_NAMES)}"
    yield from _problems_of_ids([(line, row[0]) for line, row in pairs], expected_ids)


def _problems_of_ids(found: list[tuple[int, str]], expected_ids: NDArray[np.int64]) -> Iterator[str]:
    expected = {str(number) for number in expected_ids.tolist()}
    seen: set[str] = set()
    repeated = []
    for line, text in found:
        if text in seen:
            repeated.append((line, text))
        seen.add(text)
    if repeated:
        yield f"repeated ids: {_shown(repeated)}"
    foreign = [(line, text) for line, text in found if text not in expected]
    if foreign:
        yield f"ids that are not in the test set: {_shown(foreign)}"
    missing = sorted((expected - seen), key=int)
    if missing:
        more = f" and {len(missing) - MAX_SHOWN:,} more" if len(missing) > MAX_SHOWN else ""
        yield f"missing ids: {', '.join(missing[:MAX_SHOWN])}{more}"


def _shown(places: Iterable[tuple[int, str]]) -> str:
    places = list(places)
    shown = ", ".join(f"{text[:40]!r} (line {line})" for line, text in places[:MAX_SHOWN])
    return shown + (f" and {len(places) - MAX_SHOWN:,} more" if len(places) > MAX_SHOWN else "")
