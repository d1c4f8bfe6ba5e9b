import numpy as np
import pytest
import timm
import torch

from pipeline.demo.images import draw_image
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.learning.dataset import normalize
from pipeline.learning.models import Airbench, create_model

IMAGES = torch.from_numpy(np.stack([draw_image(i % 10, np.random.default_rng(i)) for i in range(40)]))
BATCH = normalize(IMAGES, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("tutorial_cnn", {}),
        ("airbench94_small", {}),
        ("airbench94", {"depth": 3}),
        ("airbench95", {"widths": [8, 16, 24]}),
        ("test_resnet", {}),
        ("test_vit", {"img_size": 32, "patch_size": 4}),
    ],
)
def test_every_net_gives_ten_logits(name, params):
    assert create_model(ModelConfig(name=name, params=params)).eval()(BATCH[:2]).shape == (2, 10)


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
def test_nets_for_large_images_keep_room_for_small_ones(name, size):
    """Without the change of the stem all of these end at one position."""
    plain = timm.create_model(name, num_classes=10).eval()
    fitted = create_model(ModelConfig(name=name)).eval()

    assert plain.forward_features(BATCH[:1]).shape[-2:] == (1, 1)
    assert fitted.forward_features(BATCH[:1]).shape[-2:] == (size, size)


def test_the_tutorials_net_is_the_tutorials():
    assert sum(weight.numel() for weight in create_model(ModelConfig(name="tutorial_cnn")).parameters()) == 62_006


@pytest.mark.parametrize(("name", "num_weights"), [("airbench94", 1_972_792), ("airbench94_small", 1_089_720)])
def test_the_whitened_nets_have_airbenchs_size(name, num_weights):
    assert sum(weight.numel() for weight in create_model(ModelConfig(name=name)).parameters()) == num_weights


def test_the_first_layer_whitens_and_learns_no_filters():
    net = Airbench()
    net.whiten(BATCH)
    with torch.no_grad():
        out = net.stem(BATCH)[:, :12].permute(1, 0, 2, 3).reshape(12, -1).double()
    covariance = out @ out.T / out.shape[1]

    assert torch.allclose(covariance, torch.eye(12, dtype=torch.float64), atol=0.15)
    assert torch.equal(net.stem.weight[12:], -net.stem.weight[:12])
    assert not net.stem.weight.requires_grad


def test_a_group_begins_as_the_identity():
    conv = Airbench().groups[1].conv1
    x = torch.randn(1, 64, 8, 8)

    assert torch.allclose(conv(x)[:, :64], x, atol=1e-5)


def test_a_frozen_whitening_needs_no_gradient():
    net = Airbench()
    net.freeze_whitening()

    assert not net.stem(BATCH[:1]).requires_grad
    assert net(BATCH[:2]).requires_grad


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(name="resnet_eighteen"), r"timm has no 'resnet_eighteen'; near: "),
        (ModelConfig(name="resnet18", params={"widths": [1]}), r"model\.params: resnet18 does not take them: .*widths"),
        (ModelConfig(name="airbench94", params={"depth": 5}), r"depth: found 5, expected 2 or 3"),
        (ModelConfig(name="tutorial_cnn", pretrained=True), r"tutorial_cnn has no pretrained weights"),
    ],
)
def test_a_net_that_can_not_be_built_says_why(config, message):
    with pytest.raises(ConfigError, match=message):
        create_model(config)


def test_weights_that_can_not_be_fetched_are_a_clear_error(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)

    with pytest.raises(ConfigError, match=r"the weights of test_resnet could not be fetched .*pretrained: false"):
        create_model(ModelConfig(name="test_resnet", pretrained=True))
