"""A model's config -> the model and its input. Every model is created by timm, our own included.

To add a model: write its module beside airbench.py, and register it here by a function with `@register_model`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from pipeline.error_messages import on_one_line
from pipeline.errors import ConfigError
from pipeline.learning.airbench import Airbench, AirbenchResidual
from pipeline.learning.hub import hub_errors
from pipeline.learning.inputs import InputSpec
from pipeline.learning.stem import make_stem_small
from pipeline.learning.tutorial_cnn import TutorialCNN
from pipeline.learning.weights import NamedWeights, match_names, read_weights
from pipeline.member_config import ModelConfig
from pipeline.progress import log
from pipeline.task import Task

OUR_MODELS = (
    "airbench94",
    "airbench94_small",
    "airbench95",
    "airbench96",
    "airbench_res28",
    "airbench_res40",
    "tutorial_cnn",
)
LOADER_ARGUMENTS = {
    "checkpoint_path": "give the file in model.weights",
    "pretrained": "set model.pretrained",
    "pretrained_cfg": "give the file in model.weights",
    "pretrained_cfg_overlay": "give the file in model.weights",
    "num_classes": "the number of classes is that of the competition",
    "in_chans": "images have three channels",
    "features_only": "the model must return logits",
}
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


def input_spec(config: ModelConfig, task: Task) -> InputSpec:
    """Return the input of a model without creating it. Raises ConfigError for a model that timm does not have.

    Its size is the configured one, else that of the images. Images are normalised as timm's config of the weights says
    for a pretrained model, by the dataset's own mean and standard deviation for one that is trained from scratch.
    """
    _check(config)
    size = config.image_size or task.image_size
    weights = timm.get_pretrained_cfg(config.name) if config.is_pretrained else None
    if weights is None:
        return InputSpec.for_task(task).at_size(size)
    return InputSpec(size, weights.mean, weights.std, "bilinear" if weights.interpolation == "bilinear" else "bicubic")


def model_size(config: ModelConfig) -> int | None:
    """Return height and width for which timm made a model; None if it does not say."""
    pretrained_cfg = timm.get_pretrained_cfg(config.name)
    return None if pretrained_cfg is None else pretrained_cfg.input_size[-1]


def create_model(config: ModelConfig, task: Task) -> tuple[nn.Module, InputSpec]:
    """Create a model for the task's classes and images, pretrained if configured, and its input.

    Raises ConfigError for an unknown model, arguments that it does not accept, and weights that can't be loaded.
    """
    spec = input_spec(config, task)
    if config.weights is not None:
        model = _create(config, task, spec.size, weights=_read_weights(config, task, spec.size, config.weights))
    elif config.pretrained:
        with hub_errors(config.name):
            model = _create(config, task, spec.size, pretrained=True)
    else:
        model = _create(config, task, spec.size)
    return model, spec


def create_untrained_model(config: ModelConfig, task: Task) -> nn.Module:
    """Create a model of the same architecture without reading weights. Raises ConfigError."""
    return _create(config, task, input_spec(config, task).size)


def create_meta_model(config: ModelConfig, task: Task) -> nn.Module:
    """Create a model on the meta device, which allocates and computes nothing. Raises ConfigError."""
    with torch.device("meta"):
        return create_untrained_model(config, task)


def _check(config: ModelConfig) -> None:
    """Raise ConfigError for a name that timm does not know, and arguments that belong elsewhere."""
    if not timm.is_model(config.name):
        raise ConfigError(f"model.name: timm has no model {config.name!r}; {_suggest_models(config.name)}")
    name, _, tag = config.name.partition(".")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")] if tag else []
    if tag and tag not in tags:
        raise ConfigError(f"model.name: timm has no weights {tag!r} of {name}; it has {', '.join(tags) or 'none'}")
    if config.pretrained and config.weights is None and config.name in OUR_MODELS:
        raise ConfigError(f"model.pretrained: {config.name} has no pretrained weights; set model.pretrained: false")
    for key in sorted(config.params.keys() & LOADER_ARGUMENTS.keys()):
        raise ConfigError(f"model.params.{key}: {LOADER_ARGUMENTS[key]}")


def _create(
    config: ModelConfig, task: Task, size: int, *, pretrained: bool = False, weights: NamedWeights | None = None
) -> nn.Module:
    """Create a model for inputs of a size, with weights of timm's hub, or of a file, or random ones."""
    params, is_ours = as_arguments(config.params), config.name in OUR_MODELS
    if config.name == "tutorial_cnn":
        params.setdefault("img_size", size)
    # timm passes the size on to models with a fixed one, such as ViTs, and resamples their position embeddings.
    overlay: dict[str, Any] = {"input_size": (3, size, size)}
    has_new_head = pretrained and timm.get_pretrained_cfg(config.name).num_classes != task.num_classes
    if weights is not None:
        has_new_head = not weights.has_head
        # A number of classes that differs from the model's is timm's sign for a head that is not loaded.
        num_classes = task.num_classes if weights.has_head else -1
        overlay |= {"state_dict": dict(weights.tensors), "num_classes": num_classes, "label_offset": 0}
    try:
        model = timm.create_model(
            config.name,
            pretrained=pretrained or weights is not None,
            num_classes=task.num_classes,
            pretrained_cfg_overlay=overlay,
            **params,
        )
    except TypeError as error:
        raise ConfigError(f"model.params: {config.name} does not accept them: {on_one_line(error)}") from None
    if is_ours and weights is not None:
        model.load_state_dict(weights.tensors, strict=weights.has_head)
    if config.has_small_stem(size):
        make_stem_small(model, keep_weights=config.is_pretrained)
    if has_new_head:
        _init_head_to_zero(model)
    return model


def _read_weights(config: ModelConfig, task: Task, size: int, path: Path) -> NamedWeights:
    """Read a file of weights and give its tensors the model's names. Raises ConfigError."""
    found = read_weights(path)
    own_size = model_size(config) or size
    with torch.random.fork_rng(devices=()):
        # Position embeddings of the file may be those of either size.
        models = [_create(config.model_copy(update={"stem": "keep"}), task, each) for each in {own_size: 0, size: 0}]
    named = match_names(
        found,
        [model.state_dict() for model in models],
        head=classifier_names(models[0]),
        origin=f"{path} does not contain the weights of {config.name}",
    )
    log.info("%s: pretrained weights of %s%s", config.name, path, named.how)
    return named


def _init_head_to_zero(model: nn.Module) -> None:
    """Let the new head of a pretrained model start with logits of 0 (Dosovitskiy et al. 2021, section 3.2).

    timm's random head of an EfficientNet has logits as large as 5, whose gradients spoil the features before the head
    has learned anything.
    """
    names = classifier_names(model)
    for name, parameter in model.named_parameters():
        if name in names:
            nn.init.zeros_(parameter)


def classifier_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters of a timm model's classifier; distilled models have several classifiers."""
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return frozenset()
    classifier = get_classifier()
    modules = classifier if isinstance(classifier, tuple) else (classifier,)
    parameters = {parameter for module in modules for parameter in module.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if parameter in parameters)


def as_arguments(params: dict[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples: YAML has only lists, timm often requires tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}


def _suggest_models(name: str) -> str:
    similar = timm.list_models(f"*{name.split('_')[0]}*")[:5]
    return f"similar: {', '.join(similar)}" if similar else f"any model of timm, or {', '.join(OUR_MODELS)}"


def _make(model_class: type[nn.Module], kwargs: dict[str, Any], **defaults: Any) -> nn.Module:
    # timm adds these for models with weights to download.
    ignored = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return model_class(**defaults | {key: value for key, value in kwargs.items() if key not in ignored})


@register_model
def tutorial_cnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001 (part of timm's interface)
    """The PyTorch tutorial's network, 62,006 parameters."""
    return _make(TutorialCNN, kwargs)


@register_model
def airbench94_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 32/128/256: about a third of the FLOPs of airbench94."""
    return _make(Airbench, kwargs, widths=(32, 128, 256), depth=2)


@register_model
def airbench94(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 64/256/256."""
    return _make(Airbench, kwargs, widths=(64, 256, 256), depth=2)


@register_model
def airbench95(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 128/384/384."""
    return _make(Airbench, kwargs, widths=(128, 384, 384), depth=2)


@register_model
def airbench96(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Widths 128/384/512, three convolutions per group."""
    return _make(Airbench, kwargs, widths=(128, 384, 512), depth=3)


@register_model
def airbench_res28(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Residual groups of widths 28/112/320: three quarters of the FLOPs of airbench94_small."""
    return _make(AirbenchResidual, kwargs, widths=(28, 112, 320), mid_channels=(80, 224))


@register_model
def airbench_res40(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ARG001
    """Residual groups of widths 40/144/352: 43 % of the FLOPs of airbench94."""
    return _make(AirbenchResidual, kwargs, widths=(40, 144, 352), mid_channels=(112, 256))
