"""matplotlib axes -> an SVG in the colours of the page.

Colours are CSS variables of the page, so that one SVG serves light, dark and print.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.blocks import Drawing

# matplotlib requires real colours: these are placeholders, replaced by the page's variables in the SVG.
INK, FAINT = "#010101", "#020202"
SERIES = tuple(f"#0{number}0{number}0{number}" for number in range(3, 10))
VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text instead of paths: small, and in the page's font
    "svg.hashsalt": "report",
    "path.simplify": True,
}

REM_PER_INCH = 6.5  # makes 9-point text as tall as the page's captions


@dataclass
class Canvas:
    """Axes to plot on, and the finished SVG."""

    axes: Axes
    drawing: Drawing = field(init=False)
    """Set when `canvas` exits."""


@contextmanager
def canvas(name: str, width: float, height: float) -> Iterator[Canvas]:
    """Yield axes to plot on (sizes in inches), then convert them to an SVG; `name` is unique in the page."""
    with mpl.rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        result = Canvas(figure.add_subplot())
        yield result
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        result.drawing = Drawing(_embeddable(svg.getvalue(), name), width * REM_PER_INCH)


def plain_text(text: str) -> str:
    """Escape dollar signs, which matplotlib would render as a formula."""
    return text.replace("$", r"\$")


def _embeddable(svg: str, name: str) -> str:
    """Make an SVG part of a page: the page's colours, and ids that no other SVG has."""
    prefix = re.sub(r"[^A-Za-z0-9-]", "-", name)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"#(0[1-9])\1\1\b", lambda match: VARIABLES[match.group()], svg)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
