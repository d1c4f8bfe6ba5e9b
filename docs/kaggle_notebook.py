"""Write docs/kaggle-notebook.ipynb: python docs/kaggle_notebook.py."""

import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("kaggle-notebook.ipynb")

CELLS = (
    (
        "markdown",
        """
# A pipeline for Kaggle's CIFAR-10, in a notebook

For those who prefer the browser to `python run.py remote`; nobody has tried it on Kaggle yet. In the settings of the
notebook choose *Accelerator: GPU T4 x2* and *Internet: on* (both need a verified phone number); under *Add Input* add
the competition *CIFAR-10*, whose rules you have accepted. Then *Save Version: Save & Run All* runs everything without
the browser, for up to 12 hours.

On Colab, `!python {CODE}/run.py download` before the job fetches the images; it needs a Kaggle token.
""",
    ),
    (
        "code",
        """
import html
import shutil
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/NAME.git"  # your copy of this project, unless it is attached as a dataset
CODE, CACHE = Path("/tmp/pipeline"), Path("/tmp/cache")  # the scratch disk, which is not saved
WORKING = next(path for path in map(Path, ("/kaggle/working", "/content", ".")) if path.is_dir())
CONFIG = "finetune_gpu"

attached = next(Path("/kaggle/input").glob("**/requirements-kaggle.txt"), None)
if attached and not CODE.exists():
    shutil.copytree(attached.parent, CODE)
if not CODE.exists():
    !git clone --quiet --depth 1 {REPOSITORY} {CODE}
""",
    ),
    ("code", "%pip install --quiet --requirement {CODE}/requirements-kaggle.txt"),
    (
        "code",
        """
%cd {WORKING}
!python {CODE}/run.py all --config {CODE}/configs/{CONFIG}.yaml --set images.cache_dir={CACHE}
""",
    ),
    (
        "code",
        """
from IPython.display import HTML

report = html.escape(Path(f"submissions/{CONFIG}/report.html").read_text(encoding="utf-8"))
HTML(f'<iframe srcdoc="{report}" width="100%" height="900"></iframe>')
""",
    ),
    (
        "markdown",
        """
`submissions/NAME/submission.csv` is in the output of the notebook: *Submit to competition*, or download the folder into
`submissions/` of the project and run `python run.py submit --run NAME`. If the time was not enough, add this notebook's
output as its input, copy `submissions` from it to the working folder before the job, and run all cells again: the job
resumes.
""",
    ),
)


def notebook() -> dict[str, Any]:
    """Return the notebook, in version 4.5 of its format."""
    return {
        "cells": [_cell(index, kind, text.strip("\n")) for index, (kind, text) in enumerate(CELLS)],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(index: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def text_of_notebook() -> str:
    """Return the content of the file."""
    return json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(text_of_notebook(), encoding="utf-8")
