"""The parts of a page: plain values that page.html.j2 renders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Link:
    """A table cell that links to another page."""

    text: str
    href: str


@dataclass(frozen=True)
class Number:
    """A table cell with a fixed number of decimals; it sorts by its exact value."""

    value: float
    digits: int = 4


Cell = str | int | Number | Link | None


@dataclass(frozen=True)
class CaptionedImage:
    """A small image with a caption."""

    source: str
    """A data URI; empty: a placeholder."""
    caption: str
    """Below the image; line breaks are kept."""
    title: str = ""
    """Tooltip."""
    heat_map: str = ""
    """A data URI of the same image with a heat map, shown below it; empty: none."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Code:
    """Preformatted text that folds away."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    is_open: bool = True


@dataclass(frozen=True)
class Drawing:
    """An SVG, and its width on a wide screen in rem."""

    svg: str
    width: float


@dataclass(frozen=True)
class Figure:
    """A plot with a caption."""

    kind: ClassVar[str] = "figure"
    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    kind: ClassVar[str] = "gallery"
    caption: str
    images: Sequence[CaptionedImage]


@dataclass(frozen=True)
class ImageTable:
    """Rows of images, each with its name in the first column."""

    kind: ClassVar[str] = "image_table"
    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[CaptionedImage]]]


@dataclass(frozen=True)
class Table:
    """Rows of values: numbers right-aligned, None as a dash. A sortable table sorts by a click on a column's header."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    is_sortable: bool = False


@dataclass(frozen=True)
class Matrix:
    """A heat map of values, shaded from 0 to 1; a click on a cell with images shows them."""

    kind: ClassVar[str] = "matrix"
    caption: str
    row_title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]]
    images: Mapping[tuple[int, int], Gallery] = field(default_factory=dict)


Block = Text | Code | Figure | Gallery | ImageTable | Table | Matrix


@dataclass(frozen=True)
class Stat:
    """A headline value with its name and a note, such as its confidence interval."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `anchor` is its HTML id."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A complete page."""

    title: str
    subtitle: str
    stats: Sequence[Stat]
    sections: Sequence[Section]
