"""A page's blocks -> one self-contained HTML file: style, script and images are inline."""

from pathlib import Path

import jinja2

from pipeline.report.blocks import Page

FOLDER = Path(__file__).parent


def render(page: Page) -> str:
    """Return the page as HTML. All texts are escaped; only the SVGs of `figures` are inserted as they are."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(page=page, style=style, script=script)
