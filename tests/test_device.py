import platform
import resource

import joblib
import pytest
import torch

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError
from pipeline.learning.device import set_up_machine

NUM_FLOATS = 12_500_000  # more bytes than glibc ever keeps by itself


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_are_the_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    set_up_machine(MachineConfig())
    assert torch.get_num_threads() == 3

    set_up_machine(MachineConfig(num_threads=1))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_that_multiplies_in_bf16_does_so(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})

    assert set_up_machine(MachineConfig(device="cpu")).autocast
    assert not set_up_machine(MachineConfig(device="cpu", autocast="off")).autocast


def test_another_cpu_compiles_and_casts_only_when_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    auto = set_up_machine(MachineConfig(device="cpu"))
    told = set_up_machine(MachineConfig(device="cpu", compile="on", autocast="bf16", num_workers=2))

    assert (auto.device.type, auto.compile, auto.autocast, auto.num_workers) == ("cpu", False, False, 0)
    many = set_up_machine(MachineConfig(device="cpu", num_workers=1000))

    assert many.num_workers == joblib.cpu_count()
    assert (told.compile, told.autocast, told.num_workers) == (True, True, 2)


@pytest.mark.parametrize(("device", "message"), [("cuda", "finds no CUDA device"), ("mps", "no Mac with Metal")])
def test_a_device_that_is_not_there_is_told(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(ConfigError, match=message):
        set_up_machine(MachineConfig(device=device))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told so")
def test_freed_memory_is_kept_for_the_next_step():
    def new_pages(num_steps):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(num_steps):
            torch.ones(NUM_FLOATS)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    set_up_machine(MachineConfig(device="cpu"))
    new_pages(10)  # the heap first grows to where an aligned block fits again

    assert new_pages(10) < 4 * NUM_FLOATS / 4096, "less than one of the ten was mapped anew"
