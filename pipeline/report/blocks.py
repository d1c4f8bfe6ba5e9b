"""What a page is made of: plain values that page.html.j2 knows how to show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Link:
    """A cell that leads to another page."""

    text: str
    href: str


@dataclass(frozen=True)
class Number:
    """A cell with so many digits after the point; it sorts by its value."""

    value: float
    digits: int = 4


Cell = str | int | Number | Link | None


@dataclass(frozen=True)
class Image_:
    """A small picture with what is to be said of it."""

    source: str
    """A data URI."""
    caption: str
    """Stands below the picture; lines are kept."""
    title: str = ""
    """Is shown when one points at it."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Code:
    """Text to copy, or to read line by line."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    is_open: bool = True


@dataclass(frozen=True)
class Drawing:
    """An SVG, and its width on a wide screen in times the letters' size (rem)."""

    svg: str
    width: float


@dataclass(frozen=True)
class Figure:
    """A drawing with axes."""

    kind: ClassVar[str] = "figure"
    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    kind: ClassVar[str] = "gallery"
    caption: str
    pictures: Sequence[Image_]


@dataclass(frozen=True)
class Strip:
    """Rows of pictures, each with its name in front."""

    kind: ClassVar[str] = "strip"
    caption: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Image_]]]


@dataclass(frozen=True)
class Table:
    """Rows of values; numbers to the right, None as a dash. One that sorts does so by a click on a column's head."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sorts: bool = False


@dataclass(frozen=True)
class Matrix:
    """Square or not: numbers shaded by their share (0 to 1); cells with pictures open them."""

    kind: ClassVar[str] = "matrix"
    caption: str
    row_title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]]
    pictures: Mapping[tuple[int, int], Gallery] = field(default_factory=dict)


Block = Text | Code | Figure | Gallery | Strip | Table | Matrix


@dataclass(frozen=True)
class Fact:
    """A number of the headline, with what it is and how sure it is."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `anchor` is its id in the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
