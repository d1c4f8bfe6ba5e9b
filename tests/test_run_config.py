"""A run's options -> its config, and whether worker processes start before torch is imported."""

import pytest

from pipeline import run_config
from pipeline.config import MachineConfig
from pipeline.run_config import start_workers_early


@pytest.mark.parametrize(
    ("machine", "has_gpu", "starts"),
    [
        ({}, False, True),
        ({"jobs": 2}, False, True),
        ({"device": "cpu"}, True, True),
        ({"jobs": 1}, False, False),
        ({}, True, False),
        ({"device": "cuda"}, False, False),
    ],
)
def test_workers_start_early_if_the_config_may_need_them(monkeypatch, tmp_path, machine, has_gpu, starts):
    driver, calls = tmp_path / "nvidiactl", []
    if has_gpu:
        driver.touch()
    monkeypatch.setattr(run_config, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(run_config, "start_imports", lambda: calls.append(1))
    start_workers_early(MachineConfig.model_validate(machine))

    assert bool(calls) == starts
