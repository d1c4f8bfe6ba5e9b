"""A page's blocks -> one HTML file that needs nothing else: style, script and pictures are inside."""

from pathlib import Path

import jinja2

from pipeline.report.blocks import Page

HERE = Path(__file__).parent


def render(page: Page) -> str:
    """Return the page as HTML. All texts are escaped; only drawings of `figures` are taken as they are."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(page=page, style=style, script=script)
