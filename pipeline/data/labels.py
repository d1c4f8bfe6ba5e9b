"""trainLabels.csv -> ids and classes, checked."""

import io
import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.task import CLASS_NAMES, CSV_COLUMNS
from pipeline.errors import InputError

MAX_SHOWN = 3
MAX_HEADER = 1000  # bytes
MAX_ROWS = 1_000_000  # the competition has 300,000 at most


@dataclass(frozen=True)
class Labels:
    """Ids [N], ascending, each with its class [N], an index into CLASS_NAMES."""

    ids: NDArray[np.int64]
    classes: NDArray[np.int64]

    def checksum(self) -> str:
        """Return what tells these labels from others."""
        return f"{zlib.crc32(self.ids.tobytes() + self.classes.tobytes()):08x}"


def read_table(data: bytes, name: str) -> pd.DataFrame:
    """Read a CSV of ids and labels as text; row i stands on line i + 2. Raises InputError naming the file."""
    if len(data[:MAX_HEADER].splitlines()) < 2 and len(data) > MAX_HEADER:
        header = ",".join(CSV_COLUMNS)
        raise InputError(f"{name} begins with a line of more than {MAX_HEADER} bytes, expected {header!r}")
    num_lines = data.count(b"\n") + data.count(b"\r")
    if num_lines > 2 * MAX_ROWS:
        raise InputError(f"{name} has {num_lines:,} line ends, expected at most {MAX_ROWS:,} rows")
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{name} can't be read as a CSV in UTF-8: {' '.join(str(error).split())}") from None
    if tuple(table.columns) != CSV_COLUMNS:
        found = ",".join(map(str, table.columns))[:80]
        raise InputError(f"{name} has the header {found!r}, expected {','.join(CSV_COLUMNS)!r}")
    return table


def parse_labels(data: bytes, name: str) -> Labels:
    """Read and check a CSV of `id,label`. Raises InputError naming the file, the fault and its lines."""
    table = read_table(data, name)
    if table.empty:
        raise InputError(f"{name} has a header and no rows")
    good_id = table["id"].str.fullmatch(r"[1-9][0-9]{0,8}")
    if not good_id.all():
        raise InputError(f"{name}: {_where(table['id'], ~good_id)} is no id, expected whole numbers from 1")
    repeated = table["id"].duplicated()
    if repeated.any():
        raise InputError(f"{name}: the id {_where(table['id'], repeated)} stands there a second time")
    known = table["label"].isin(CLASS_NAMES)
    if not known.all():
        raise InputError(f"{name}: the label {_where(table['label'], ~known)} is not one of {', '.join(CLASS_NAMES)}")
    ids = table["id"].to_numpy(dtype=np.int64)
    classes = pd.Categorical(table["label"], categories=CLASS_NAMES).codes.astype(np.int64)
    order = np.argsort(ids)
    return Labels(ids[order], classes[order])


def parse_ids(data: bytes, name: str) -> NDArray[np.int64]:
    """Return the ids of a CSV such as sampleSubmission.csv, ascending, checked as in `parse_labels`."""
    return parse_labels(data, name).ids


def _where(column: "pd.Series[str]", wrong: "pd.Series[bool]") -> str:
    """Name the first wrong values with their lines."""
    rows = np.flatnonzero(wrong)
    shown = ", ".join(f"{column.iloc[row]!r} (line {row + 2})" for row in rows[:MAX_SHOWN])
    return shown + (f" and {len(rows) - MAX_SHOWN} more" if len(rows) > MAX_SHOWN else "")
