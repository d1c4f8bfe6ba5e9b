"""docs/kaggle-notebook.ipynb: made by its script, valid, and its cells run a job."""

import os
import re
import runpy
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from kaggle_kernels import MOUNT_HOOK

from pipeline.remote.kernel_source import CONTENT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "kaggle_notebook.py"))


def test_notebook_is_what_its_script_makes():
    text = SCRIPT["NOTEBOOK"].read_text(encoding="utf-8")

    assert text == SCRIPT["text_of_notebook"](), "run: python docs/kaggle_notebook.py"
    nbformat.validate(nbformat.reads(text, as_version=4))


def as_python(code):
    """Translate IPython's lines: commands of the shell, %cd, and %pip, which is left out."""

    def line(match):
        indent, command = match.groups()
        if command.startswith("pip "):
            return f"{indent}pass"
        call = "os.chdir" if command.startswith("cd ") else "run"
        return f'{indent}{call}(f"""{command.removeprefix("cd ")}""")'

    return re.sub(r"^( *)[!%](.*)$", line, code, flags=re.MULTILINE)


@pytest.mark.heavy
def test_cells_run_the_job_and_show_the_report(archives_folder, tmp_path):
    mount, working = tmp_path / "input", tmp_path / "working"
    working.mkdir()
    (mount / "pipeline").mkdir(parents=True)
    (mount / "cifar-10").symlink_to(archives_folder)
    for name in CONTENT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, mount / "pipeline" / name)
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "display.py").write_text("HTML = print")
    cells = [as_python(text.strip("\n")) for kind, text in SCRIPT["CELLS"] if kind == "code"]
    code = "\n".join(
        ["import os, subprocess", "def run(command): subprocess.run(command, shell=True, check=True)", *cells]
    )
    for old, new in {
        "/kaggle/input": mount,
        "/kaggle/working": working,
        "/tmp/pipeline": tmp_path / "code",
        "/tmp/cache": tmp_path / "cache",
        '"finetune_gpu"': '"demo"',
        "python {CODE}": f"{sys.executable} {{CODE}}",
    }.items():
        code = code.replace(old, str(new))
    environment = os.environ | {
        "KAGGLE_INPUT_DIR": str(mount),
        "STOP_FILE": str(tmp_path / "stop"),
        "PYTHONPATH": os.pathsep.join([str(MOUNT_HOOK), str(tmp_path)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (working / "submissions" / "demo" / "submission.csv").exists()
    assert '<iframe srcdoc="&lt;!doctype html&gt;' in done.stdout.lower()
    assert sorted(path.name for path in working.iterdir()) == ["submissions"]
