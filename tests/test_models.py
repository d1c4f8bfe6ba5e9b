from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pipeline.demo.images import draw_image
from pipeline.errors import ConfigError
from pipeline.learning import hub
from pipeline.learning.airbench import Airbench, DiracConv
from pipeline.learning.device import Machine
from pipeline.learning.inputs import InputSpec
from pipeline.learning.models import ModelHooks, create_meta_model, create_model, hooks_of, input_spec
from pipeline.learning.trial import try_member
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.task import CIFAR10

IMAGES = torch.from_numpy(np.stack([draw_image(i % 10, np.random.default_rng(i)) for i in range(40)]))
INPUTS = InputSpec.for_task(CIFAR10).to_input(IMAGES, torch.device("cpu"))
FIVE_CLASSES = replace(CIFAR10, class_names=("a", "b", "c", "d", "e"), image_shape=(48, 48, 3))


def check_member(config, task):
    try_member("net", config, task, Machine())


def model_of(name, task=CIFAR10, **params):
    return create_model(ModelConfig(name=name, params=params), task)[0]


def airbench():
    return Airbench(num_classes=10, widths=(64, 256, 256), depth=2)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("tutorial_cnn", {}),
        ("airbench94_small", {}),
        ("airbench94", {"depth": 3}),
        ("airbench95", {"widths": [8, 16, 24]}),
        ("airbench96", {"widths": [8, 16, 24], "norm_momentum": 0.1}),
        ("airbench_res28", {"widths": [8, 16, 24], "mid_channels": [12, 16]}),
        ("test_resnet", {}),
        ("test_vit", {"img_size": 32, "patch_size": 4}),
    ],
)
def test_every_model_returns_ten_logits(name, params):
    assert model_of(name, **params).eval()(INPUTS[:2]).shape == (2, 10)


@pytest.mark.parametrize("name", ["tutorial_cnn", "airbench94", "test_resnet"])
def test_models_fit_the_classes_and_image_size_of_another_task(name):
    model, spec = create_model(ModelConfig(name=name), FIVE_CLASSES)
    inputs = spec.to_input(torch.zeros(2, 48, 48, 3, dtype=torch.uint8), torch.device("cpu"))

    assert inputs.shape == (2, 3, 48, 48)
    assert model.eval()(inputs).shape == (2, 5)


def test_input_of_a_model_is_that_of_the_task():
    config = ModelConfig(name="tutorial_cnn")

    assert create_model(config, FIVE_CLASSES)[1] == input_spec(config, FIVE_CLASSES) == InputSpec.for_task(FIVE_CLASSES)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 4),
        ("resnet26d", 4),
        ("resnetv2_50", 4),
        ("seresnext26t_32x4d", 4),
        ("densenet121", 4),
        ("regnety_002", 2),
        ("mobilenetv3_small_050", 2),
        ("efficientnet_b0", 2),
    ],
)
def test_imagenet_stems_are_adapted_to_small_images(name, size):
    """With its original stem, each of these ends with a 1x1 feature map."""
    original = timm.create_model(name, num_classes=10).eval()
    adapted = model_of(name).eval()

    assert original.forward_features(INPUTS[:1]).shape[-2:] == (1, 1)
    assert adapted.forward_features(INPUTS[:1]).shape[-2:] == (size, size)


def test_tutorial_cnn_has_the_parameter_count_of_the_tutorial():
    assert num_parameters(model_of("tutorial_cnn")) == 62_006


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("airbench94", 1_972_792),
        ("airbench94_small", 1_089_720),
        ("airbench95", 4_606_520),
        ("airbench96", 9_918_776),
        ("airbench_res28", 1_565_056),
        ("airbench_res40", 2_056_520),
    ],
)
def test_airbench_models_have_their_parameter_counts(name, expected):
    assert num_parameters(model_of(name)) == expected


def test_stem_whitens_patches_and_its_weight_is_frozen():
    model = airbench()
    model.whiten(INPUTS)
    with torch.no_grad():
        out = model.stem(INPUTS)[:, :12].permute(1, 0, 2, 3).reshape(12, -1).double()
    covariance = out @ out.T / out.shape[1]

    assert torch.allclose(covariance, torch.eye(12, dtype=torch.float64), atol=0.15)
    assert torch.equal(model.stem.weight[12:], -model.stem.weight[:12])
    assert not model.stem.weight.requires_grad


def test_first_filters_of_a_group_are_initialised_to_the_identity():
    conv = airbench().groups[1].conv1
    x = torch.randn(1, 64, 8, 8)

    assert torch.allclose(conv(x)[:, :64], x, atol=1e-5)


def test_first_filters_of_a_2x2_convolution_are_initialised_to_the_mean_of_its_pixels():
    conv = DiracConv(16, 24, kernel_size=2)
    x = torch.randn(1, 16, 8, 8)

    assert torch.allclose(conv(x)[:, :16], nn.functional.avg_pool2d(x, 2, stride=1), atol=1e-5)


def test_features_of_a_residual_model_are_the_sum_of_max_and_mean_pooling():
    maps = torch.randn(2, 24, 3, 3)

    assert torch.allclose(model_of("airbench_res28").features(maps), maps.amax((2, 3)) + maps.mean((2, 3)), atol=1e-6)


def test_frozen_whitening_bias_needs_no_gradient():
    model = airbench()
    assert model.stem(INPUTS[:1]).requires_grad
    model.freeze_whitening_bias()

    assert not model.stem(INPUTS[:1]).requires_grad
    assert model(INPUTS[:2]).requires_grad


def test_airbench_implements_all_hooks():
    model = airbench()
    expected = airbench()
    expected.whiten(INPUTS)
    hooks = hooks_of(model)
    hooks.init_from_data(lambda: INPUTS)
    hooks.freeze_whitening_bias()
    model.eval()
    hooks.fuse()

    assert isinstance(model, ModelHooks)
    assert hooks is model
    assert torch.equal(model.stem.weight, expected.stem.weight)
    assert not model.stem.bias.requires_grad
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["test_resnet", "repvgg_a0", "tutorial_cnn"])
def test_hooks_of_other_models_do_nothing(name):
    model = model_of(name)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modules, trainable = list(model.modules()), [parameter.requires_grad for parameter in model.parameters()]
    hooks = hooks_of(model)
    hooks.init_from_data(lambda: pytest.fail("no sample is needed"))
    hooks.freeze_whitening_bias()
    hooks.fuse()

    assert isinstance(hooks, ModelHooks)
    assert list(model.modules()) == modules
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(name="resnet_eighteen"), r"timm has no model 'resnet_eighteen'; similar: "),
        (ModelConfig(name="zzz"), r"timm has no model 'zzz'; any model of timm, or airbench94, .*tutorial_cnn"),
        (ModelConfig(name="resnet18", params={"widths": [1]}), r"model\.params: resnet18 does not accept .*widths"),
        (ModelConfig(name="airbench94", params={"depth": 5}), r"depth: found 5, expected 2 or 3"),
        (
            ModelConfig(name="airbench_res28", params={"mid_channels": [8]}),
            r"model.params: found 3 widths and 1 mid_channels, expected 3 and 2",
        ),
        (ModelConfig(name="tutorial_cnn", pretrained=True), r"tutorial_cnn has no pretrained weights"),
    ],
)
def test_invalid_model_config_is_rejected(config, message):
    with pytest.raises(ConfigError, match=message):
        create_model(config, CIFAR10)


@pytest.fixture
def _offline(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub, "_is_reachable", lambda _: True)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)


@pytest.mark.usefixtures("_offline")
def test_failed_download_of_weights_is_a_config_error():
    config = ModelConfig(name="test_resnet", pretrained=True)

    for create in (
        lambda: create_model(config, CIFAR10),
        lambda: check_member(MemberConfig(model=config), CIFAR10),
    ):
        with pytest.raises(ConfigError, match=r"weights of test_resnet can't be downloaded \(ConnectionError: Name or"):
            create()


@pytest.mark.usefixtures("_offline")
def test_meta_model_needs_no_weights_and_no_memory():
    model = create_meta_model(ModelConfig(name="test_resnet", pretrained=True), CIFAR10)

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def member(*sizes, name="airbench94"):
    stages = [{"until": (index + 1) / 4, "size": size} for index, size in enumerate(sizes)]
    return MemberConfig.model_validate({"model": {"name": name}, "train": {"progressive_resizing": stages}})


def test_progressive_resizing_above_the_image_size_is_rejected():
    check_member(member(24, 32), CIFAR10)
    check_member(member(24, 33), FIVE_CLASSES)

    with pytest.raises(ConfigError, match=r"progressive_resizing: size 33 is larger than the model's input of 32 p"):
        check_member(member(24, 33), CIFAR10)
    with pytest.raises(ConfigError, match=r"progressive_resizing: size 49 is larger than the model's input of 48"):
        check_member(member(49), FIVE_CLASSES)


def test_member_with_an_unknown_model_is_rejected():
    with pytest.raises(ConfigError, match="timm has no model 'airbench97'"):
        check_member(member(name="airbench97"), CIFAR10)
