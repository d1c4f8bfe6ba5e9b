"""A CSV file -> its rows with their line numbers. Only LF, CR LF and CR end a line, nothing else that Unicode has."""

import csv
import io
from collections.abc import Iterator


class CsvError(Exception):
    """A line that is not valid CSV; the message names it."""


def read_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each row's first line, from 1, and its fields; a blank line has none.

    Raises CsvError for invalid quotes, and for fields of more than 131,072 characters.
    """
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise CsvError(f"line {line} is not valid CSV: {error}") from None


def count_line_ends(data: bytes) -> int:
    """Return the number of line ends."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def line_at(data: bytes, position: int) -> int:
    """Return the number, from 1, of the line with the byte at a position."""
    return count_line_ends(data[:position]) + 1
