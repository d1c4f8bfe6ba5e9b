import platform
import resource

import joblib
import pytest
import torch

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError
from pipeline.learning.device import set_up_machine

NUM_FLOATS = 12_500_000  # more bytes than glibc keeps by default


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_num_threads_defaults_to_the_available_cores(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    set_up_machine(MachineConfig())
    assert torch.get_num_threads() == 3

    set_up_machine(MachineConfig(num_threads=1))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_autocast_is_on_for_a_cpu_with_native_bf16(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})

    assert set_up_machine(MachineConfig(device="cpu")).autocast
    assert not set_up_machine(MachineConfig(device="cpu", autocast="off")).autocast


def test_compile_and_autocast_are_off_by_default_on_other_cpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    auto = set_up_machine(MachineConfig(device="cpu"))
    explicit = set_up_machine(MachineConfig(device="cpu", compile="on", autocast="bf16", num_workers=2))

    assert (auto.device.type, auto.compile, auto.autocast, auto.num_workers) == ("cpu", False, False, 0)
    many = set_up_machine(MachineConfig(device="cpu", num_workers=1000))

    assert many.num_workers == joblib.cpu_count()
    assert (explicit.compile, explicit.autocast, explicit.num_workers) == (True, True, 2)


@pytest.mark.parametrize(("device", "message"), [("cuda", "finds no CUDA device"), ("mps", "finds no Metal device")])
def test_unavailable_device_is_rejected(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(ConfigError, match=message):
        set_up_machine(MachineConfig(device=device))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_reused_by_the_next_step():
    def new_pages(num_steps):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(num_steps):
            torch.ones(NUM_FLOATS)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    set_up_machine(MachineConfig(device="cpu"))
    new_pages(10)  # until the heap has grown to fit an aligned block

    assert new_pages(10) < 4 * NUM_FLOATS / 4096, "less than one of the ten was mapped again"


def test_predict_batch_size_defaults_to_the_devices():
    assert set_up_machine(MachineConfig(device="cpu")).predict_batch_size == 64
    assert set_up_machine(MachineConfig(device="cpu", predict_batch_size=7)).predict_batch_size == 7
