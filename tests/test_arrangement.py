"""How many jobs run side by side, with how many threads, and how much memory they take."""

import pytest
import torch

from pipeline import memory
from pipeline.config import MachineConfig
from pipeline.executors import arrangement
from pipeline.executors.arrangement import Slots, arrange, find_slots
from pipeline.learning.device import Machine
from pipeline.learning.flops import training_memory
from pipeline.member_config import MemberConfig
from pipeline.results import Arrangement
from pipeline.task import CIFAR10

GIGABYTE = 10**9
AUTO = MachineConfig()


@pytest.fixture
def on_machine(monkeypatch):
    """Pretend that the machine has some cores and some free memory."""

    def pretend(num_cores, free=1000 * GIGABYTE):
        monkeypatch.setattr(arrangement, "available_cores", lambda: num_cores)
        monkeypatch.setattr(arrangement, "available_memory", lambda: free)

    return pretend


ON_CPU = Machine()


def slots_of(config, machine=ON_CPU, total_flops=1e15):
    return find_slots(config, machine, job_memory=GIGABYTE, total_flops=total_flops)


def test_small_jobs_need_no_processes(on_machine):
    on_machine(8)

    assert slots_of(AUTO, total_flops=1e10) == on_cpu(1, 8)
    assert slots_of(MachineConfig(jobs=2), total_flops=1e10) == on_cpu(2, 8)


def on_cpu(num_jobs, num_cores, max_threads=None):
    return Slots(("cpu",) * num_jobs, num_cores, max_threads)


@pytest.mark.parametrize(
    ("settings", "num_cores", "expected"),
    [
        ({}, 1, on_cpu(1, 1, 1)),
        ({}, 2, on_cpu(2, 2, 2)),
        ({}, 8, on_cpu(8, 8, 8)),
        ({"threads_per_job": 2}, 8, on_cpu(4, 8, 8)),
        ({"threads_per_job": 2}, 1, on_cpu(1, 1, 1)),
        ({"jobs": 1}, 8, on_cpu(1, 8)),
        ({"jobs": 4}, 2, on_cpu(4, 2)),
        ({"jobs": 4, "threads_per_job": 2}, 2, on_cpu(4, 2)),
    ],
)
def test_a_cpu_has_a_slot_per_core_unless_configured_otherwise(on_machine, settings, num_cores, expected):
    on_machine(num_cores)

    assert slots_of(MachineConfig(**settings)) == expected


@pytest.mark.parametrize(("free", "expected"), [(100, 8), (8, 8), (7.9, 7), (2.5, 2), (0.5, 1), (0, 1)])
def test_no_more_jobs_run_side_by_side_than_memory_allows(on_machine, free, expected):
    on_machine(8, int(free * GIGABYTE))

    assert len(slots_of(AUTO).devices) == expected


def test_unknown_free_memory_does_not_limit(on_machine):
    on_machine(8, None)

    assert len(slots_of(AUTO).devices) == 8


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [("auto", ("cuda:0", "cuda:1")), (1, ("cuda:0",)), (3, ("cuda:0", "cuda:1", "cuda:0"))],
)
def test_jobs_are_distributed_over_gpus(on_machine, monkeypatch, jobs, expected):
    on_machine(8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert slots_of(MachineConfig(jobs=jobs), Machine(torch.device("cuda"))).devices == expected


@pytest.mark.parametrize(
    ("num_jobs", "slots", "expected"),
    [
        (5, on_cpu(2, 2), [1, 1, 1, 1, 2]),
        (3, on_cpu(2, 2), [1, 1, 2]),
        (4, on_cpu(2, 2), [1, 1, 1, 1]),
        (1, on_cpu(2, 2), [2]),
        (5, on_cpu(8, 8), [2, 2, 2, 1, 1]),
        (5, on_cpu(8, 8, 8), [2, 2, 2, 2, 8]),
        (5, on_cpu(16, 16, 16), [4, 3, 3, 3, 3]),
        (3, on_cpu(2, 2, 2), [1, 1, 2]),
        (5, on_cpu(2, 2, 2), [1, 1, 1, 1, 2]),
        (5, on_cpu(4, 4), [1, 1, 1, 1, 4]),
        (3, on_cpu(1, 4), [4, 4, 4]),
        (3, on_cpu(4, 2), [1, 1, 1]),
        (3, Slots(("cuda:0", "cuda:1"), 16), [8, 8, 8]),
        (2, Slots(("cuda:0", "cuda:1", "cuda:2"), 2), [1, 1]),
        (0, on_cpu(2, 2), []),
    ],
)
def test_all_cores_are_used_in_every_round(num_jobs, slots, expected):
    names = [f"net fold {index}" for index in range(num_jobs)]

    assert list(arrange(names, Arrangement(), AUTO, slots).training.values()) == expected


def test_recorded_threads_are_kept_on_another_machine():
    recorded = arrange(["a", "b", "c"], Arrangement(), AUTO, on_cpu(2, 2))

    threads = {"a": 1, "b": 1, "c": 2}
    assert (recorded.training, recorded.prediction) == (threads, 1)
    for names, slots in ((["a", "b", "c"], on_cpu(8, 8)), (["b", "c"], on_cpu(1, 1))):
        again = arrange(names, recorded, AUTO, slots)
        assert (again.training, again.prediction) == (threads, 1)
    assert arrange(["d"], recorded, AUTO, on_cpu(4, 4)).training == threads | {"d": 4}


def test_number_of_jobs_at_once_is_recorded_for_each():
    alone = arrange(["a", "b", "c"], Arrangement(), MachineConfig(threads_per_job=1), on_cpu(2, 2), alone=["b"])
    resumed = arrange(["c"], arrange(["a", "b", "c"], Arrangement(), AUTO, on_cpu(4, 4)), AUTO, on_cpu(4, 4))

    assert alone.jobs_at_once == {"a": 2, "c": 2, "b": 1}
    assert resumed.jobs_at_once == {"a": 3, "b": 3, "c": 1}


def test_jobs_that_run_alone_have_all_cores():
    names = ["a", "linear 0", "b", "linear 1"]
    found = arrange(names, Arrangement(), AUTO, on_cpu(2, 4), alone=["linear 0", "linear 1"])

    assert found.training == {"a": 2, "b": 2, "linear 0": 4, "linear 1": 4}


def test_configured_threads_are_those_of_every_job():
    recorded = Arrangement(training={"a": 1}, prediction=1)
    config = MachineConfig(threads_per_job=3)

    found = arrange(["a", "b"], recorded, config, on_cpu(2, 8))
    assert (found.training, found.prediction) == ({"a": 3, "b": 3}, 3)


def member(batch_size=64, **model):
    return MemberConfig.model_validate({"model": {"name": "airbench94", **model}, "train": {"batch_size": batch_size}})


def test_estimated_memory_grows_with_images_batch_and_model():
    small = training_memory(member(), CIFAR10, 1000)

    assert training_memory(member(), CIFAR10, 2000) == small + 1000 * 32 * 32 * 3
    assert training_memory(member(512), CIFAR10, 1000) > small + 100_000_000
    assert training_memory(member(name="airbench96"), CIFAR10, 1000) > small + 10_000_000


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"memory.max": "max", "memory.current": "5"}, None),
        ({"memory.max": "1000", "memory.current": "400"}, 600),
        ({"memory.max": "1000", "memory.current": "400", "memory.stat": "anon 7\ninactive_file 100\n"}, 700),
        ({"memory.max": "1000", "memory.current": "1400"}, 0),
        ({"memory/memory.limit_in_bytes": "500", "memory/memory.usage_in_bytes": "100"}, 400),
    ],
)
def test_free_memory_of_a_container_is_its_limit_without_what_is_used(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_free_of_system", lambda: None)

    assert memory.available_memory() == expected


def test_free_memory_of_this_machine_is_known():
    free = memory.available_memory()

    assert free is None or 0 <= free < 1e15


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many", None])
@pytest.mark.parametrize("key", ["jobs", "threads_per_job"])
def test_invalid_number_of_jobs_or_threads_is_rejected(key, value):
    with pytest.raises(ValueError, match=r"expected auto, or a number from 1|expected a number"):
        MachineConfig.model_validate({key: value})


@pytest.mark.parametrize(("before", "now"), [(0, "auto"), (3, 3)])
def test_number_of_threads_of_an_earlier_version_is_accepted(before, now):
    assert MachineConfig.model_validate({"num_threads": before}).threads_per_job == now
