"""A logistic regression on the features of a frozen model."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.learning import linear_head
from pipeline.learning.device import Machine
from pipeline.learning.linear_head import FrozenFeatures, extract_features, train_linear_head
from pipeline.learning.models import create_model
from pipeline.learning.predict import predict
from pipeline.learning.train import build_model
from pipeline.learning.train_state import TrainState
from pipeline.learning.trial import try_member
from pipeline.member_config import MemberConfig
from pipeline.task import CIFAR10

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 10
# Each class has a colour of its own.
IMAGES = (20 * LABELS[:, None, None, None] + RNG.integers(0, 40, (60, 32, 32, 3))).astype(np.uint8)


@pytest.fixture
def member(tmp_path):
    """A member with a linear head on a small model, whose weights are in a file."""

    def make(name="test_resnet", **config):
        torch.manual_seed(0)
        source = MemberConfig.model_validate({"model": {"name": name, "image_size": 96}})
        path = tmp_path / f"{name}.pth"
        torch.save(create_model(source.model, CIFAR10)[0].state_dict(), path)
        return MemberConfig.model_validate(
            {"model": {"name": name, "weights": path, "image_size": 64}, "head": "linear", **config}
        )

    return make


def fit(member):
    features = extract_features(member, CIFAR10, IMAGES, Machine())
    (state,) = train_linear_head(member, CIFAR10, features, LABELS, resume=TrainState())
    return features, state


def test_model_with_the_fitted_head_predicts_the_labels_from_the_images(member):
    config = member(linear={"l2": 1e-4})
    _, state = fit(config)
    model, spec = build_model(config, CIFAR10, torch.device("cpu"), state.weights())
    logits = predict(model, spec, IMAGES, "none", Machine())

    assert (logits.argmax(1) == LABELS).mean() > 0.9
    assert state.history[0].accuracy > 0.9
    assert state.num_epochs == config.num_epochs == 1


def test_everything_but_the_head_keeps_its_pretrained_weights(member):
    config = member()
    _, state = fit(config)
    pretrained = torch.load(config.model.weights)
    changed = {name for name, tensor in state.weights().items() if not torch.equal(tensor, pretrained[name])}

    assert changed == {"fc.weight", "fc.bias"}


def test_features_are_those_of_the_image_and_of_its_mirror_image(member):
    features = extract_features(member(), CIFAR10, IMAGES, Machine())
    mirrored = extract_features(member(), CIFAR10, np.ascontiguousarray(IMAGES[:, :, ::-1]), Machine())

    assert features.shape[:2] == (2, 60)
    assert np.allclose(features, mirrored[::-1], atol=1e-4)


def test_stronger_regularisation_gives_smaller_weights(member):
    norms = [float(fit(member(linear={"l2": l2}))[1].weights()["fc.weight"].norm()) for l2 in (1e-3, 1e-1)]

    assert norms[1] < norms[0] / 2


def test_two_classes_have_a_logit_each(member):
    inputs, labels = RNG.normal(size=(50, 4)).astype(np.float32), np.arange(50) % 2
    weight, bias = linear_head._fit(inputs + 3 * labels[:, None].astype(np.float32), labels, 1e-3)

    assert weight.shape == (2, 4)
    assert torch.allclose(bias.sum(), torch.zeros((), dtype=bias.dtype), atol=1e-6)
    predicted = (torch.from_numpy(inputs + 3 * labels[:, None]).double() @ weight.T + bias).argmax(1)
    assert (predicted.numpy() == labels).mean() > 0.95


def test_features_are_computed_once_for_all_folds(member, monkeypatch):
    calls, extract = [], linear_head.extract_features
    monkeypatch.setattr(linear_head, "extract_features", lambda *args: calls.append(args) or extract(*args))
    cache, config = FrozenFeatures(), member()
    first, second = (cache.get(config, CIFAR10, IMAGES, "checksum", Machine()) for _ in range(2))
    cache.get(config, CIFAR10, IMAGES, "of other images", Machine())

    assert first is second
    assert len(calls) == 2


def test_finished_head_is_not_fitted_again(member):
    config = member()
    features, state = fit(config)

    assert list(train_linear_head(config, CIFAR10, features, LABELS, resume=state)) == []


def test_trial_leaves_a_usable_member_alone(member):
    try_member("net", member(), CIFAR10, Machine())


def test_model_without_a_linear_classifier_is_rejected(member):
    with pytest.raises(ConfigError, match=r"^members\.net\.head: linear needs a model with one linear layer"):
        try_member("net", member("airbench94_small"), CIFAR10, Machine())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"name": "test_resnet"}}, "head: linear needs a pretrained model; set model.pretrained"),
        ({"model": {"pretrained": True}, "train": {"epochs": 3}}, "head: linear trains nothing else; remove train"),
        ({"model": {"pretrained": True}, "alternating_flip": True}, "remove train, augment and alternating_flip"),
    ],
)
def test_settings_that_do_not_apply_are_rejected(config, message):
    with pytest.raises(ValueError, match=message):
        MemberConfig.model_validate({"head": "linear", **config})
