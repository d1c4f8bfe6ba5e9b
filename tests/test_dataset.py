import pytest

from pipeline.errors import TrainingError
from pipeline.learning.dataset import dataloader_errors


def test_killed_worker_is_a_training_error_wherever_torch_raises_it():
    message = r"a DataLoader worker was killed.*machine\.num_workers"
    with pytest.raises(TrainingError, match=message), dataloader_errors():
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


def test_other_errors_are_not_converted():
    with pytest.raises(RuntimeError, match="shapes do not match"), dataloader_errors():
        raise RuntimeError("shapes do not match")
