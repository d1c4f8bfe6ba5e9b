"""A model's config -> the model and its input. Every model is created by timm, our own included.

To add a model: write its module beside airbench.py, and register it here by a function with `@register_model`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import timm
import torch
from timm.models import load_checkpoint, register_model
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.learning.airbench import Airbench
from pipeline.learning.inputs import InputSpec
from pipeline.learning.tutorial_cnn import TutorialCNN
from pipeline.task import Task

OUR_MODELS = ("airbench94", "airbench94_small", "airbench95", "airbench96", "tutorial_cnn")
CHECKPOINT = "checkpoint_path"  # a parameter of timm.create_model
SampleInputs = Callable[[], Tensor]


@runtime_checkable
class ModelHooks(Protocol):
    """What a model may do besides its forward pass."""

    def init_from_data(self, sample: SampleInputs) -> None:
        """Initialise layers from the training images; `sample` returns inputs [N, 3, height, width]."""
        ...

    def freeze_whitening_bias(self) -> None:
        """Freeze the bias of the whitening layer."""
        ...

    def fuse(self) -> None:
        """Fold norms into convolutions, in evaluation mode."""
        ...


class _NoHooks:
    """The hooks of a model that has none."""

    def init_from_data(self, sample: SampleInputs) -> None:
        """Do nothing."""

    def freeze_whitening_bias(self) -> None:
        """Do nothing."""

    def fuse(self) -> None:
        """Do nothing."""


def hooks_of(model: nn.Module) -> ModelHooks:
    """Return a model's hooks, which do nothing for models of timm."""
    return model if isinstance(model, ModelHooks) else _NoHooks()


def input_spec(_config: ModelConfig, task: Task) -> InputSpec:
    """Return the input of a model without creating it: that of the dataset, as models are trained from scratch."""
    return InputSpec.for_task(task)


def create_model(config: ModelConfig, task: Task) -> tuple[nn.Module, InputSpec]:
    """Create a model for the task's classes and images, and its input.

    Raises ConfigError for an unknown model, arguments that it does not accept, and weights that can't be loaded.
    """
    if not timm.is_model(config.name):
        raise ConfigError(f"model.name: timm has no model {config.name!r}; {_suggest_models(config.name)}")
    if config.pretrained and config.name in OUR_MODELS:
        raise ConfigError(f"model.pretrained: {config.name} has no pretrained weights; set model.pretrained: false")
    params = _as_arguments(config.params)
    if config.name == "tutorial_cnn":
        params.setdefault("img_size", task.image_size)
    checkpoint = params.pop(CHECKPOINT, None)
    try:
        model = timm.create_model(config.name, pretrained=config.pretrained, num_classes=task.num_classes, **params)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"model.params: {config.name} does not accept them: {first_line(error)}") from None
    except Exception as error:
        if not config.pretrained:
            raise
        # huggingface_hub and the network raise a dozen unrelated classes here.
        raise ConfigError(
            f"model.pretrained: download of the weights of {config.name} failed "
            f"({type(error).__name__}: {first_line(error)}); "
            "connect to the internet, or set model.pretrained: false"
        ) from error
    if checkpoint:
        _load_checkpoint(model, checkpoint, f"a {config.name} with {task.num_classes} classes")
    return adapt_stem(model), input_spec(config, task)


def create_untrained_model(config: ModelConfig, task: Task) -> nn.Module:
    """Create a model without reading weights. Raises ConfigError."""
    params = {key: value for key, value in config.params.items() if key != CHECKPOINT}
    return create_model(config.model_copy(update={"pretrained": False, "params": params}), task)[0]


def create_meta_model(config: ModelConfig, task: Task) -> nn.Module:
    """Create a model on the meta device, which allocates and computes nothing. Raises ConfigError."""
    with torch.device("meta"):
        return create_untrained_model(config, task)


def first_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 200 characters and no full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _load_checkpoint(model: nn.Module, path: Any, expected: str) -> None:
    """Load the weights of `checkpoint_path`, as timm does. Raises ConfigError."""
    key = f"model.params.{CHECKPOINT}"
    try:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigError(f"{key}: {path} does not exist, or is not a file")
        load_checkpoint(model, str(file))
    except ConfigError:
        raise
    except Exception as error:
        # A file of any bytes makes torch, zipfile, pickle and safetensors raise errors of many classes. The text about
        # pickled code suggests to execute it.
        reason = "it contains more than tensors" if "weights_only" in str(error) else first_line(error)
        raise ConfigError(
            f"{key}: {path} does not contain the weights of {expected} ({type(error).__name__}: {reason}); expected a "
            "file of torch.save(model.state_dict(), ...) or safetensors"
        ) from None


def adapt_stem(model: Any) -> nn.Module:
    """Remove the strides of ImageNet stems, which leave a 1x1 feature map of 32 pixels, where the stem is known.

    ResNets (`conv1`, `maxpool`), DenseNets (`features.conv0`, `pool0`), pre-activation ResNets and RegNets
    (`stem.conv`), EfficientNets and MobileNets (`conv_stem`). Other models take arguments instead, for example
    `{patch_size: 1}` for ConvNeXt or `{img_size: 32, patch_size: 4}` for ViT.
    """
    features: Any = getattr(model, "features", None)
    stem: Any = getattr(model, "stem", None)
    if hasattr(model, "conv1") and hasattr(model, "maxpool"):
        model.conv1 = _small_conv(_last_conv(model.conv1))
        if isinstance(model.bn1, nn.BatchNorm2d) and model.bn1.num_features != model.conv1.out_channels:
            model.bn1 = nn.BatchNorm2d(model.conv1.out_channels)
        model.maxpool = nn.Identity()
    elif features is not None and hasattr(features, "conv0") and hasattr(features, "pool0"):
        features.conv0 = _small_conv(features.conv0)
        features.pool0 = nn.Identity()
    elif hasattr(model, "conv_stem"):
        model.conv_stem.stride = (1, 1)
    elif isinstance(getattr(stem, "conv", None), nn.Conv2d) and stem.conv.stride == (2, 2):
        stem.conv.stride = (1, 1)
        if hasattr(stem, "pool"):
            stem.pool = nn.Identity()
    return model


def _last_conv(stem: nn.Module) -> nn.Conv2d:
    """Return the convolution that determines the stem's width (a deep stem is a Sequential)."""
    if isinstance(stem, nn.Conv2d):
        return stem
    return [module for module in stem.modules() if isinstance(module, nn.Conv2d)][-1]


def _small_conv(old: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(3, old.out_channels, 3, stride=1, padding=1, bias=False)


def _as_arguments(params: dict[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples: YAML has only lists, timm often requires tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}


def _suggest_models(name: str) -> str:
    similar = timm.list_models(f"*{name.split('_')[0]}*")[:5]
    return f"similar: {', '.join(similar)}" if similar else f"any model of timm, or {', '.join(OUR_MODELS)}"


def _create(model_class: type[nn.Module], kwargs: dict[str, Any], **defaults: Any) -> nn.Module:
    # timm adds these for models with weights to download.
    ignored = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return model_class(**defaults | {key: value for key, value in kwargs.items() if key not in ignored})


@register_model
def tutorial_cnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001 (part of timm's interface)
    """The PyTorch tutorial's network, 62,006 parameters."""
    return _create(TutorialCNN, kwargs)


@register_model
def airbench94_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 32/128/256: about a third of the FLOPs of airbench94."""
    return _create(Airbench, kwargs, widths=(32, 128, 256), depth=2)


@register_model
def airbench94(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 64/256/256."""
    return _create(Airbench, kwargs, widths=(64, 256, 256), depth=2)


@register_model
def airbench95(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 128/384/384."""
    return _create(Airbench, kwargs, widths=(128, 384, 384), depth=2)


@register_model
def airbench96(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 128/384/512, three convolutions per group."""
    return _create(Airbench, kwargs, widths=(128, 384, 512), depth=3)
