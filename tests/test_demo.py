"""The demo, as a user runs it."""

import re

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo_input(tmp_path_factory):
    """A folder for the demo's dataset, which its first run makes."""
    return tmp_path_factory.mktemp("demo")


def test_demo_is_marked_as_synthetic_and_prints_its_test_accuracy(run_py, tmp_path, demo_input):
    # Another test runs at the same time.
    done = run_py("demo", "--input", demo_input, "--set=machine.jobs=1", "--set=machine.threads_per_job=1")
    accuracy = re.search(r"^scored test images: accuracy (0\.\d+)", done.stdout, re.MULTILINE)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DEMO: synthetic images.")
    assert float(accuracy[1]) > 0.9
    assert (tmp_path / "submissions" / "demo" / "submission.csv").exists()


@pytest.mark.heavy
def test_demo_has_the_same_bytes_for_one_job_at_a_time_and_for_four(run_py, tmp_path, demo_input):
    short = [f"--set=members.{name}.train.epochs=1" for name in ("airbench", "tutorial_cnn")]
    for jobs in (1, 4):
        options = "--run", f"jobs{jobs}", f"--set=machine.jobs={jobs}", "--set=machine.threads_per_job=1"
        done = run_py("demo", "--input", demo_input, *options, *short)
        assert done.returncode == 0, done.stderr
    one, four = (tmp_path / "submissions" / name for name in ("jobs1", "jobs4"))
    files = [path.relative_to(one) for path in one.rglob("*") if path.suffix in (".safetensors", ".npz", ".csv")]
    results = [path for path in files if path.name != "history.csv"]  # which contains times

    assert len([path for path in results if path.suffix == ".safetensors"]) == 6
    assert all((one / path).read_bytes() == (four / path).read_bytes() for path in results)
