"""Ids + labels -> submission.csv, and the check of any submission.csv."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.csv_rows import CsvError, line_at, read_rows
from pipeline.error_messages import explain_cause
from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.task import Ids, Task

MAX_EXAMPLES = 3
MAX_BYTES = 1 << 25  # larger files are not parsed; 300,000 rows take 5 MB
MAX_EXTRA_LINES = 100_000


def write_submission(path: Path, ids: Ids, labels: NDArray[np.int64], task: Task) -> None:
    """Write a row for each id [N] and its label [N], ascending by id, atomically.

    Raises InputError if Kaggle would reject the file.
    """
    order = np.argsort(ids)
    rows = [f"{id_},{task.class_names[label]}\n" for id_, label in zip(ids[order], labels[order], strict=True)]
    text = task.csv_header + "\n" + "".join(rows)
    problems = find_problems(text.encode(), ids, task)
    if problems:
        raise InputError(f"{path} was not written, Kaggle would reject it: {'; '.join(problems)}")
    write_text(path, text)


def check_submission(path: Path, expected_ids: Ids, task: Task) -> list[str]:
    """Return every reason why Kaggle would reject a file, none for a valid one.

    Raises InputError if the file can't be read.
    """
    return find_problems(read_submission(path), expected_ids, task)


def compare_with_predictions(path: Path, ids: Ids, labels: NDArray[np.int64], task: Task) -> list[str]:
    """Return where a valid submission differs from the predicted labels [N] of ids [N]."""
    expected = {(str(id_), task.class_names[label]) for id_, label in zip(ids.tolist(), labels.tolist(), strict=True)}
    _, *rows = read_rows(read_submission(path).decode())
    different = [(line, ",".join(row)) for line, row in rows if tuple(row) not in expected]
    if not different:
        return []
    return [f"it does not match the predictions of its run: {_examples(different)}"]


def find_problems(data: bytes, expected_ids: Ids, task: Task) -> list[str]:
    """Check the bytes of a submission against the test ids [N]; return a line for each type of error, with examples."""
    if len(data) > MAX_BYTES:
        return [f"it has more than {MAX_BYTES:,} bytes"]
    num_lines = max(data.count(b"\n"), data.count(b"\r"))
    if num_lines > 2 * len(expected_ids) + MAX_EXTRA_LINES:
        return [f"it has {num_lines:,} lines, expected {len(expected_ids) + 1:,}"]
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return ["it is compressed; extract it"]
    if data.startswith(b"\xef\xbb\xbf"):
        return ["it starts with a byte order mark; save it as UTF-8 without BOM"]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return [f"line {line_at(data, error.start)} is not UTF-8 (byte {data[error.start]:#04x})"]
    if b"\0" in data:
        return [f"line {line_at(data, data.index(0))} contains a NUL byte"]
    return list(_row_problems(text, expected_ids, task))


def read_submission(path: Path) -> bytes:
    """Return the bytes of a submission; of a file that is too large, only so many that the check says so.

    Raises InputError if it can't be read.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a submission, such as {path / 'submission.csv'}")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} can't be read: {explain_cause(error)}") from None


def _row_problems(text: str, expected_ids: Ids, task: Task) -> Iterator[str]:
    try:
        numbered = list(read_rows(text))
    except CsvError as error:
        yield str(error)
        return
    if not numbered:
        yield f"it is empty, expected the header {task.csv_header!r}"
        return
    (_, header), *rows = numbered
    if header != list(task.csv_columns):
        yield f"the header is {','.join(header)[:80]!r}, expected {task.csv_header!r}"
    if len(rows) != len(expected_ids):
        yield f"it has {len(rows):,} rows, expected {len(expected_ids):,}"
    malformed = [(line, ",".join(row)) for line, row in rows if len(row) != len(task.csv_columns)]
    if malformed:
        yield f"expected two columns, found {_examples(malformed)}"
    pairs = [(line, row) for line, row in rows if len(row) == len(task.csv_columns)]
    unknown = [(line, row[1]) for line, row in pairs if row[1] not in task.class_names]
    if unknown:
        yield f"unknown labels: {_examples(unknown)}; expected one of {', '.join(task.class_names)}"
    yield from _id_problems([(line, row[0]) for line, row in pairs], expected_ids)


def _id_problems(found: list[tuple[int, str]], expected_ids: Ids) -> Iterator[str]:
    expected = {str(id_) for id_ in expected_ids.tolist()}
    seen: set[str] = set()
    duplicates = []
    for line, id_ in found:
        if id_ in seen:
            duplicates.append((line, id_))
        seen.add(id_)
    if duplicates:
        yield f"duplicate ids: {_examples(duplicates)}"
    unexpected = [(line, id_) for line, id_ in found if id_ not in expected]
    if unexpected:
        yield f"ids that are not in the test set: {_examples(unexpected)}"
    missing = sorted((expected - seen), key=int)
    if missing:
        more = f" and {len(missing) - MAX_EXAMPLES:,} more" if len(missing) > MAX_EXAMPLES else ""
        yield f"missing ids: {', '.join(missing[:MAX_EXAMPLES])}{more}"


def _examples(found: Iterable[tuple[int, str]]) -> str:
    """Format the first texts with their line numbers, and how many more there are."""
    found = list(found)
    shown = ", ".join(f"{text[:40]!r} (line {line})" for line, text in found[:MAX_EXAMPLES])
    return shown + (f" and {len(found) - MAX_EXAMPLES:,} more" if len(found) > MAX_EXAMPLES else "")
