"""Without ray everything but `--executor ray` works, and that says what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.executors.factory import ExecutorOptions

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_RAY = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["ray"] = None
from pipeline.cli import main
main()
"""


def test_ray_is_asked_for_only_when_it_is_wanted(whole_run, zip_folder):
    folder, _ = whole_run
    command = [sys.executable, "-c", WITHOUT_RAY, "train", "--run", "new", "--input", str(zip_folder)]
    done = subprocess.run(
        [*command, "--config", "tiny.yaml", "--executor", "ray"],
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "error: --executor ray needs ray: pip install -r requirements-cluster.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_without_ray_is_told():
    with pytest.raises(ConfigError, match="goes with --executor ray"):
        ExecutorOptions("local", "auto")
