import pytest

from pipeline.errors import TrainingError
from pipeline.learning.dataset import dataloader_errors


def test_a_killed_worker_is_told_wherever_torch_raises_it():
    with pytest.raises(TrainingError, match=r"a data worker was killed.*machine\.num_workers"), dataloader_errors():
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes do not fit"), dataloader_errors():
        raise RuntimeError("shapes do not fit")
