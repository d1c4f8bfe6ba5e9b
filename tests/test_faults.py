"""A sample of `make faults`: kills at eight moments of one job, and two harmed files."""

import random

import pytest
from faults.harness import SAME, Job, files_of, flip_a_bit, undisturbed, verdict

pytestmark = pytest.mark.slow
NUM_KILLS = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"))


def test_a_job_killed_again_and_again_ends_with_the_same_bytes(whole, tmp_path):
    job, seconds = Job.new(tmp_path / "job"), whole[1]
    random.seed(1)
    for number in range(NUM_KILLS):
        job.kill_after(seconds * (number + random.random()) / NUM_KILLS / 2)
    ended = job.finish()

    assert ended.status == 0, ended.said
    assert job.results() == whole[0].results()


def test_weights_that_were_damaged_are_trained_again(whole, tmp_path):
    job = whole[0].copy(tmp_path / "job")
    (weights, _) = [path for path in files_of(job.run) if path.name == "weights.safetensors"]
    flip_a_bit(weights)
    ended = job.finish()

    assert "fold_0/weights.safetensors is damaged or gone; its fold is trained again" in ended.said.replace("\n", " ")
    assert verdict(job, whole[0], ended) == SAME
