"""The demo, as a user runs it."""

import re

import pytest

pytestmark = pytest.mark.slow


def test_demo_is_marked_as_synthetic_and_prints_its_test_accuracy(run_py, tmp_path):
    # Another test runs at the same time.
    done = run_py("demo", "--input", tmp_path / "input", "--set=machine.jobs=1", "--set=machine.threads_per_job=1")
    accuracy = re.search(r"^scored test images: accuracy (0\.\d+)", done.stdout, re.MULTILINE)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DEMO: synthetic images.")
    assert float(accuracy[1]) > 0.9
    assert (tmp_path / "submissions" / "demo" / "submission.csv").exists()
