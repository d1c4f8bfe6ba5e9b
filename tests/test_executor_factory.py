"""Without ray everything but `--executor ray` works, and its error names the requirements to install."""

import subprocess
import sys

import pytest
from conftest import ROOT

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError
from pipeline.executors.arrangement import Slots
from pipeline.executors.factory import ExecutorOptions, open_executor
from pipeline.executors.local import LocalExecutor
from pipeline.learning.device import Machine

WITHOUT_RAY = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["ray"] = None
from pipeline.cli import main
main()
"""


def test_missing_ray_is_reported_when_it_is_requested(whole_run, zip_folder):
    folder, _ = whole_run
    command = [sys.executable, "-c", WITHOUT_RAY, "train", "--run", "new", "--input", str(zip_folder)]
    done = subprocess.run(
        [*command, "--config", "tiny.yaml", "--executor", "ray"],
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "error: --executor ray requires ray: pip install -r requirements-cluster.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_address_without_the_ray_executor_is_rejected():
    with pytest.raises(ConfigError, match="requires --executor ray"):
        ExecutorOptions("local", "auto")


def test_a_single_slot_needs_no_other_process():
    machine = Machine()
    with open_executor(ExecutorOptions(), MachineConfig(), machine, Slots(("cpu",), 2), 2) as executor:
        assert executor == LocalExecutor(machine, 2)
