import gc
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from conftest import CONFIG
from timm.models import register_model
from torch import nn

from pipeline.config_files import CONFIGS, load_config
from pipeline.errors import ConfigError
from pipeline.learning import trial
from pipeline.learning.airbench import Airbench
from pipeline.learning.device import Machine
from pipeline.learning.flops import forward_flops, training_flops
from pipeline.learning.trial import passes_on_meta, try_member
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.run_context import open_context
from pipeline.task import CIFAR10

SMALL = {"name": "airbench94", "params": {"widths": [4, 8, 8]}}
FIVE_CLASSES = replace(CIFAR10, class_names=("a", "b", "c", "d", "e"), image_shape=(48, 48, 3))


def attempt(model=SMALL, task=CIFAR10, machine=None, **member):
    try_member("net", MemberConfig.model_validate({"model": model, **member}), task, machine or Machine())


def failing(name, model):
    """Register a model for timm."""

    def entry_point(pretrained=False, **kwargs):
        return model()

    entry_point.__name__, entry_point.__module__ = name, __name__
    globals()[name] = entry_point
    register_model(entry_point)
    return {"name": name}


class Linear(nn.Module):
    """Logits of the mean colour."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", ["demo", "quick", "tutorial"])
def test_members_of_our_configs_pass(name):
    for member_name, member in load_config(CONFIGS / f"{name}.yaml").members.items():
        try_member(member_name, member, CIFAR10, Machine())


@pytest.mark.parametrize(
    "member",
    [
        {"train": {"mixup_alpha": 0.2, "batch_size": 4096}},
        {"train": {"cutmix_alpha": 1.0, "ema_decay": 0.9, "label_smoothing": 0.1, "optimizer": {"muon": {}}}},
        {"train": {"progressive_resizing": [{"until": 0.5, "size": 9}], "whiten_bias_epochs": 0}},
        {"train": {"optimizer": {"lr": 1e30}, "schedule": {"kind": "constant"}}},
        {"model": {"name": "tutorial_cnn"}},
        {"model": {"name": "test_resnet", "params": {"drop_rate": 0.5}}},
        {"model": {"name": "test_vit", "params": {"img_size": 32, "patch_size": 4}}},
    ],
    ids=["mixup", "cutmix, EMA and Muon", "resizing and freezing", "high lr", "tutorial_cnn", "resnet", "vit"],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_valid_member_passes(member, autocast):
    attempt(**{"model": SMALL, **member}, machine=Machine(autocast=autocast))


SMALL_MODELS = timm.list_models(["*nano*", "*pico*", "*tiny*", "*_small*", "*18*"])


@pytest.mark.parametrize("name", SMALL_MODELS[::20])
def test_model_of_timm_trains_on_small_images_or_is_rejected_with_what_to_set(name):
    """All models: benchmarks/timm_models.py."""
    if not passes_on_meta(ModelConfig(name=name), CIFAR10):
        with pytest.raises(ConfigError, match=r"^members\.net\.model: .*; (it works with|choose another) model"):
            attempt({"name": name})


def test_other_tasks_have_their_own_size_and_classes():
    attempt(task=FIVE_CLASSES, train={"progressive_resizing": [{"until": 1, "size": 40}]})
    with pytest.raises(ConfigError, match=r"^members\.net\.train\.progressive_resizing: size 49 is larger than the mo"):
        attempt(task=FIVE_CLASSES, train={"progressive_resizing": [{"until": 1, "size": 49}]})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "resnet_eighteen"}, r"model\.name: timm has no model 'resnet_eighteen'; similar: "),
        ({"name": "tutorial_cnn", "pretrained": True}, r"model\.pretrained: tutorial_cnn has no pretrained weights"),
        ({"name": "test_resnet", "params": {"drop_rate": "a lot"}}, r"model: ValueError: .*'a lot'"),
        ({"name": "test_resnet", "params": {"act_layer": "unknown"}}, r"model: KeyError: 'unknown'"),
        ({"name": "test_resnet", "params": {"width": 3}}, r"model\.params: test_resnet does not accept them: .*width"),
        ({"name": "test_resnet", "params": {"num_classes": 3}}, r"model\.params\.num_classes: the number of cl"),
        ({"name": "test_resnet", "params": {"global_pool": ""}}, r"model: RuntimeError: "),
        ({"name": "test_resnet", "params": {"features_only": True}}, r"model\.params\.features_only: the model must"),
        ({"name": "inception_v3"}, r"model: RuntimeError: .*; it works with model\.image_size: 299$"),
        ({"name": "qwen3_vit_88m_enc"}, r"model: on random images, the model returns .*; choose another model, or"),
        ({"name": "airbench94", "params": {"widths": [0, 8, 8]}}, r"model: RuntimeError: "),
        ({"name": "airbench94", "params": {"widths": [-4, 8, 8]}}, r"model: RuntimeError: .*negative dimension -4"),
        ({"name": "airbench94", "params": {"depth": 5}}, r"model\.params\.depth: found 5, expected 2 or 3"),
        (
            {"name": "airbench94", "params": {"widths": [4, 8, 8], "norm_momentum": 5}},
            r"model: on random images, the model's predictions of 5 of 5 images are not finite; choose",
        ),
    ],
)
def test_unusable_model_is_one_line_that_names_the_key(model, message):
    with pytest.raises(ConfigError, match=rf"^members\.net\.{message}") as raised:
        attempt(model)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "given", "params"),
    [
        ("eva02_tiny_patch14_224", {}, {"img_size": 32, "patch_size": 4}),
        ("vit_tiny_patch16_224", {"img_size": 64}, {"img_size": 32, "patch_size": 4}),
    ],
)
def test_model_for_larger_images_comes_with_params_that_work(name, given, params):
    text = ", ".join(f"{key}: {value}" for key, value in params.items())
    with pytest.raises(ConfigError, match=rf"^members\.net\.model: .*; it works with model\.params: \{{{text}\}}$"):
        attempt({"name": name, "params": given})
    attempt({"name": name, "params": params})


@pytest.mark.parametrize(
    ("model", "size", "passes"),
    [(SMALL, 8, False), (SMALL, 9, True), ({"name": "tutorial_cnn"}, 24, False), ({"name": "tutorial_cnn"}, 32, True)],
)
def test_every_size_of_progressive_resizing_is_tried(model, size, passes):
    train = {"progressive_resizing": [{"until": 0.3, "size": 32}, {"until": 0.6, "size": size}]}
    if passes:
        attempt(model, train=train)
        return
    with pytest.raises(ConfigError, match=rf"^members\.net\.train\.progressive_resizing: size {size}: RuntimeError: "):
        attempt(model, train=train)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"name": "RandomCrop", "params": {"height": 40, "width": 40, "p": 0.1}},
            r"augment\.0 \(RandomCrop\) fails on",
        ),
        ({"name": "RandomResizedCrop", "params": {"size": [24, 24], "p": 0.1}}, r"augment: RandomResizedCrop change"),
        (
            {"name": "HorizontalFlip", "params": {"p": "often"}},
            r"augment\.0: HorizontalFlip does not accept p: 'often'",
        ),
    ],
)
def test_error_of_an_augmentation_names_the_member(step, message):
    with pytest.raises(ConfigError, match=rf"^members\.net\.{message}"):
        attempt(augment=[step])


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"lr": 1e300}, r"train\.optimizer: a learning rate or weight decay, with its scale, exceeds float32"),
        ({"lr": 1e37, "norm_bias_lr_scale": 100}, r"train\.optimizer: a learning rate"),
        ({"weight_decay": 1e20, "head_lr_scale": 1e-30}, r"train\.optimizer: a learning rate or weight decay"),
        ({"muon": {"lr": 1e300}}, r"train\.optimizer: a learning rate"),
    ],
)
def test_learning_rate_above_float32_is_rejected(optimizer, message):
    with pytest.raises(ConfigError, match=rf"^members\.net\.{message}"):
        attempt(train={"optimizer": optimizer})


class Raises(Linear):
    error: Exception = ValueError()

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(),
        IndexError("list index"),
        KeyError("head"),
        MemoryError(),
        NotImplementedError("two\nlines"),
        OSError(5, "Input/output error"),
        pickle.UnpicklingError("not a pickle"),
        TypeError("a type"),
        ZeroDivisionError("division"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_of_a_model_is_a_config_error(error, monkeypatch):
    model = failing("raises", Raises) if not timm.is_model("raises") else {"name": "raises"}
    monkeypatch.setattr(Raises, "error", error)
    with pytest.raises(ConfigError, match=rf"^members\.net\.model: {type(error).__name__}[^\n]*$"):
        attempt(model)


class ReturnsInts(Linear):
    def forward(self, x):
        return super().forward(x).argmax(1)


class SqueezesOneImage(Linear):
    def forward(self, x):
        return super().forward(x).squeeze(0)


class ReturnsTwo(Linear):
    def forward(self, x):
        return super().forward(x), x


class FailsInEvaluation(Linear):
    def forward(self, x):
        assert self.training, "training only"
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ReturnsInts, r"the model returns int64 \[4\], expected logits \[4, 10\]"),
        (SqueezesOneImage, r"the model returns float32 \[10\], expected logits \[1, 10\]"),
        (ReturnsTwo, r"the model returns a tuple, expected a tensor of logits \[4, 10\]"),
        (FailsInEvaluation, r"AssertionError: training only"),
    ],
)
def test_output_that_is_not_logits_is_rejected(model, message):
    with pytest.raises(ConfigError, match=rf"^members\.net\.model: .*{message}"):
        attempt(failing(f"model_{model.__name__.lower()}", model))


class NeedsValues(Linear):
    def forward(self, x):
        return super().forward(x) if float(x.detach().abs().max()) >= 0 else x


def test_operations_of_a_model_that_needs_values_are_counted_on_the_cpu():
    model = failing("needs_values", NeedsValues)
    member = MemberConfig.model_validate({"model": model, "train": {"epochs": 3, "batch_size": 8}})
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    attempt(model)

    assert forward_flops(member, CIFAR10) == 2 * 3 * 10
    assert training_flops(member, CIFAR10, 20) == 3 * 16 * 2 * (2 * 3 * 10)
    assert torch.equal(torch.get_rng_state(), expected)


def test_trial_leaves_no_trace():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.random(3)
    gc.collect()
    before = sum(type(thing) is Airbench for thing in gc.get_objects())
    torch.manual_seed(1)
    np.random.seed(1)
    attempt(train={"mixup_alpha": 0.5, "ema_decay": 0.5})
    with pytest.raises(ConfigError):
        attempt(train={"mixup_alpha": 0.5, "progressive_resizing": [{"until": 1, "size": 8}]})

    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])
    gc.collect()
    assert sum(type(thing) is Airbench for thing in gc.get_objects()) == before


def test_model_above_the_memory_or_with_too_many_modules_is_not_created(monkeypatch):
    monkeypatch.setattr(trial, "Trainer", None)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 250_000}.get)
    with pytest.raises(
        ConfigError, match=r"^members\.net\.model: airbench94 has [\d,]+ parameters; .* 9 GB of memory, .* 1"
    ):
        attempt({"name": "airbench94", "params": {"widths": [4096, 4096, 4096]}})
    monkeypatch.setattr(trial, "MAX_MODULES", 5)
    with pytest.raises(ConfigError, match=r"^members\.net\.model: airbench94 has \d+ modules, expected at most 5"):
        attempt()


def test_invalid_member_is_rejected_before_an_image_is_decoded(zip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "input"
    shutil.copytree(zip_folder, source, ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "tiny.yaml").write_text(
        CONFIG.replace("epochs: 3", "epochs: 3, progressive_resizing: [{until: 1, size: 9}]")
    )
    with pytest.raises(ConfigError, match=r"^members\.tutorial\.train\.progressive_resizing: size 9: RuntimeError"):
        open_context(CIFAR10, config_path=tmp_path / "tiny.yaml", input_dir=source)

    assert not (source / ".cache").exists()
    assert not (tmp_path / "submissions").exists()
