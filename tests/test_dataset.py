import pytest

from pipeline.errors import TrainingError
from pipeline.learning.dataset import worker_deaths_told


def test_a_killed_worker_is_told_wherever_torch_raises_it():
    with pytest.raises(TrainingError, match=r"a data worker was killed.*machine\.num_workers"), worker_deaths_told():
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes do not fit"), worker_deaths_told():
        raise RuntimeError("shapes do not fit")
