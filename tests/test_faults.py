"""A sample of `make faults`: one job is killed five times, and weights are corrupted."""

import random
import re

import pytest
from faults.harness import SAME, Job, classify, files_of, flip_bit, run_reference

pytestmark = pytest.mark.slow
NUM_KILLS = 5


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run_reference(tmp_path_factory.mktemp("reference"))


@pytest.mark.heavy
def test_job_killed_repeatedly_gives_the_same_bytes(reference, tmp_path):
    job, seconds = Job.new(tmp_path / "job"), reference[1]
    random.seed(1)
    for number in range(NUM_KILLS):
        job.kill_after(seconds * (number + random.random()) / NUM_KILLS / 2)
    finished = job.finish()

    assert finished.status == 0, finished.output
    assert job.results() == reference[0].results()


def test_fold_with_corrupted_weights_is_trained_again(reference, tmp_path):
    job = reference[0].copy(tmp_path / "job")
    (weights, _) = [path for path in files_of(job.run) if path.name == "weights.safetensors"]
    flip_bit(weights)
    finished = job.finish()

    message = r"fold_0/weights\.safetensors is corrupted or missing; \w+ fold 0 is trained again"
    assert re.search(message, finished.output.replace("\n", " "))
    assert classify(job, reference[0], finished) == SAME
