"""Commands that compute nothing start without the packages that take seconds to import."""

import subprocess
import sys

import pytest
from conftest import ROOT

WITHOUT_HEAVY_PACKAGES = """
import runpy, sys
from importlib.abc import MetaPathFinder

class HeavyPackages(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "timm", "torchvision", "albumentations", "matplotlib", "kaggle"):
            raise ModuleNotFoundError(f"{{name}} was imported", name=name)

sys.meta_path.insert(0, HeavyPackages())
sys.argv[0] = {run!r}
runpy.run_path({run!r}, run_name="__main__")
"""


@pytest.fixture
def light_cli(whole_run):
    """Run a command in the folder of a finished run; importing a heavy package is an error there."""

    def run(*arguments):
        code = WITHOUT_HEAVY_PACKAGES.format(run=str(ROOT / "run.py"))
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, cwd=whole_run[0], capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "train --help",
        "tune --help",
        "validate --run tiny",
        "check submissions/tiny/submission.csv",
        "runs",
        "runs diff tiny tiny",
    ],
)
def test_command_needs_neither_torch_nor_timm(light_cli, command):
    done = light_cli(*command.split())

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_prepare_needs_neither_torch_nor_timm(light_cli, zip_folder):
    done = light_cli("prepare", "--input", zip_folder)

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_submit_checks_the_file_without_torch_and_timm(light_cli):
    done = light_cli("submit", "submissions/tiny/no_such_file.csv")

    assert done.returncode == 1
    assert "no_such_file.csv" in done.stderr
    assert "imported" not in done.stderr
