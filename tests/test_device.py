import ctypes
import platform
import resource

import joblib
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config import MachineConfig
from pipeline.errors import ConfigError
from pipeline.learning.airbench import Airbench
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.predict import predict
from pipeline.learning.train import build_model, train_fold
from pipeline.member_config import MemberConfig
from pipeline.task import CIFAR10

NUM_FLOATS = 12_500_000  # more bytes than glibc keeps by default


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_default_to_the_available_cores(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    set_up_machine(MachineConfig())
    assert torch.get_num_threads() == 3

    set_up_machine(MachineConfig(threads_per_job=1))
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


@pytest.mark.parametrize("num_threads", [13, 1000, 10**9])
def test_many_more_threads_than_cores_are_rejected(monkeypatch, num_threads):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    set_up_machine(MachineConfig(threads_per_job=12))
    message = rf"machine\.threads_per_job is {num_threads}, expected at most 4 per core, .* 3 cores; set it to auto"
    with pytest.raises(ConfigError, match=message):
        set_up_machine(MachineConfig(threads_per_job=num_threads))


def test_driver_of_a_cluster_accepts_the_threads_of_larger_nodes(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    set_up_machine(MachineConfig(threads_per_job=64), is_driver=True)
    assert torch.get_num_threads() == 12

    set_up_machine(MachineConfig(threads_per_job=2), is_driver=True)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [AttributeError("undefined symbol: mallopt"), OSError("no handle")])
def test_libc_without_mallopt_is_not_an_error(monkeypatch, error):
    def fail(_name):
        raise error

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", fail)
    set_up_machine(MachineConfig(device="cpu"))


class OnDevice(torch.Tensor):
    """A tensor on a device without float64, as Apple's GPUs are."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        result = super().__torch_function__(function, types, arguments, options or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, OnDevice) and result.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return result


def test_whitening_computes_in_float64_on_the_cpu():
    images = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    whitened, on_device = (Airbench(10, (4, 8, 8), 2) for _ in range(2))
    whitened.whiten(images)
    on_device.whiten(images.as_subclass(OnDevice))

    assert torch.equal(on_device.stem.weight, whitened.stem.weight)
    with pytest.raises(TypeError, match="float64"):
        images.as_subclass(OnDevice).double()


class NoFloat64(TorchDispatchMode):
    """Refuses operations that make a float64 tensor, but for the whitening, which is on the CPU."""

    is_on = True

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            assert not (self.is_on and isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64), function
        return result


@pytest.mark.parametrize(
    "member",
    [
        {
            "model": {"name": "airbench94", "params": {"widths": [4, 8, 8], "depth": 3}},
            "train": {
                "optimizer": {"muon": {"lr": 0.1}},
                "progressive_resizing": [{"until": 0.5, "size": 24}],
                "whiten_bias_epochs": 1,
                "ema_decay": 0.9,
            },
        },
        {"model": {"name": "tutorial_cnn"}, "train": {"schedule": {"kind": "cosine"}, "label_smoothing": 0.1}},
        {"model": {"name": "test_resnet"}, "train": {"mixup_alpha": 0.5, "cutmix_alpha": 1.0, "ema_decay": 0.9}},
    ],
    ids=["airbench", "tutorial_cnn", "resnet"],
)
def test_training_and_prediction_make_no_float64_tensor(member, monkeypatch):
    config = MemberConfig.model_validate({**member, "train": {"epochs": 2, "batch_size": 16, **member["train"]}})
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    mode, whiten = NoFloat64(), Airbench.whiten

    def whiten_on_cpu(model, sample):
        mode.is_on = False
        whiten(model, sample)
        mode.is_on = True

    monkeypatch.setattr(Airbench, "whiten", whiten_on_cpu)
    with mode:
        *_, state = train_fold(config, CIFAR10, images, np.arange(40) % 10, seed=1, machine=Machine())
        model, spec = build_model(config, CIFAR10, torch.device("cpu"), state.weights())
        logits = predict(model, spec, images, "flip_translate", Machine())
        with pytest.raises(AssertionError):
            torch.zeros(2).double()

    assert logits.dtype == np.float32
