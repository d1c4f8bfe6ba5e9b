"""Networks for 32x32 images. Everything comes through `timm.create_model`, our own nets included.

A new net: write it as a module here, give it a function with `@register_model`, name it in a recipe.
"""

import itertools
from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.errors import ConfigError

NUM_CLASSES = 10


class TutorialCNN(nn.Module):
    """The net of the PyTorch tutorial "Training a Classifier" (pytorch.org/tutorials, cifar10_tutorial)."""

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn [batch, 3, 32, 32] into logits [batch, classes]."""
        x = self.pool(torch.relu(self.conv1(images)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.head(torch.relu(self.fc2(x)))


class DiracConv(nn.Conv2d):
    """A 3x3 convolution whose first filters begin as the identity."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[:in_channels])


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that learns a shift but no scale."""

    def __init__(self, num_channels: int, momentum: float) -> None:
        super().__init__(num_channels, eps=1e-12, momentum=momentum)
        self.weight.requires_grad = False


class ConvGroup(nn.Module):
    """Two convolutions, or three with a skip over the last; the pooling stands before the first norm."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv1 = DiracConv(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = ShiftNorm(out_channels, norm_momentum)
        self.conv2 = DiracConv(out_channels, out_channels)
        self.norm2 = ShiftNorm(out_channels, norm_momentum)
        self.conv3 = DiracConv(out_channels, out_channels) if depth == 3 else None
        self.norm3 = ShiftNorm(out_channels, norm_momentum) if depth == 3 else None
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width of [batch, in_channels, height, width]."""
        x = self.act(self.norm1(self.pool(self.conv1(x))))
        skip = x
        x = self.norm2(self.conv2(x))
        if self.conv3 is not None and self.norm3 is not None:
            x = self.norm3(self.conv3(self.act(x))) + skip
        return self.act(x)


class Airbench(nn.Module):
    """The structure of airbench (Jordan 2024, arXiv 2404.00498; github.com/KellerJordan/cifar10-airbench).

    A frozen first layer whitens 2x2 patches; `whiten` sets it from the training images of the fold.
    """

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        widths: tuple[int, int, int] = (64, 256, 256),
        depth: int = 2,
        norm_momentum: float = 0.4,
    ) -> None:
        super().__init__()
        if depth not in (2, 3):
            raise ConfigError(f"model.params.depth: found {depth}, expected 2 or 3 convolutions in a group")
        whitened = 2 * 3 * 2 * 2
        self.stem = nn.Conv2d(3, whitened, 2)
        self.stem.weight.requires_grad = False
        channels = (whitened, *widths)
        self.groups = nn.Sequential(*(ConvGroup(*pair, depth, norm_momentum) for pair in itertools.pairwise(channels)))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.act = nn.GELU()
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised [batch, 3, 32, 32] into logits [batch, classes]."""
        x = self.act(self.stem(images))
        x = self.pool(self.groups(x)).flatten(1)
        return self.head(x) / 9

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first layer to whiten the 2x2 patches of normalised images [N, 3, 32, 32]."""
        patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
        eigenvalues, eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (eigenvectors / torch.sqrt(eigenvalues + eps)).T.reshape(12, 3, 2, 2)
        self.stem.weight.copy_(torch.cat([filters, -filters]))
        self._bias().zero_()

    def freeze_whitening(self) -> None:
        """Let the bias of the first layer learn no more; then nothing before the second layer needs a gradient."""
        self._bias().requires_grad_(False)
        self._bias().grad = None

    def _bias(self) -> Tensor:
        assert self.stem.bias is not None
        return self.stem.bias


def _own_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Drop what timm adds for models that have weights to download."""
    return {k: v for k, v in kwargs.items() if k not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}


def _reject_pretrained(name: str, pretrained: bool) -> None:
    if pretrained:
        raise ConfigError(f"{name} has no pretrained weights; set model.pretrained: false")


@register_model
def tutorial_cnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The PyTorch tutorial's net, 62,006 weights."""
    _reject_pretrained("tutorial_cnn", pretrained)
    return TutorialCNN(**_own_arguments(kwargs))


def _whitened(name: str, widths: tuple[int, int, int], pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    _reject_pretrained(name, pretrained)
    return Airbench(**{"widths": widths, **_own_arguments(kwargs)})


@register_model
def airbench94_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Widths 32/128/256: about a third of the work of `airbench94`."""
    return _whitened("airbench94_small", (32, 128, 256), pretrained, kwargs)


@register_model
def airbench94(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Widths 64/256/256: airbench94."""
    return _whitened("airbench94", (64, 256, 256), pretrained, kwargs)


@register_model
def airbench95(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Widths 128/384/384: airbench95; with `depth: 3` and `widths: [128, 384, 512]` airbench96."""
    return _whitened("airbench95", (128, 384, 384), pretrained, kwargs)


def create_model(config: ModelConfig) -> nn.Module:
    """Build a network of 10 classes for 32x32 images. Raises ConfigError."""
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name.split('_')[0]}*")[:5]
        raise ConfigError(f"model.name: timm has no {config.name!r}{'; near: ' + ', '.join(near) if near else ''}")
    try:
        model = timm.create_model(
            config.name, pretrained=config.pretrained, num_classes=NUM_CLASSES, **_as_arguments(config.params)
        )
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"model.params: {config.name} does not take them: {error}") from None
    except Exception as error:
        if not config.pretrained:
            raise
        # huggingface_hub and the network raise a dozen unrelated classes here.
        raise ConfigError(
            f"model.pretrained: the weights of {config.name} could not be fetched "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}); "
            "connect to the internet, or set model.pretrained: false"
        ) from error
    return fit_to_small_images(model)


def fit_to_small_images(model: Any) -> nn.Module:
    """Take out the strides with which timm's nets for 224 pixels begin, where the stem is of a known kind.

    ResNets and their kin (`conv1`, `maxpool`), DenseNets (`features.conv0`, `pool0`), pre-activation ResNets and
    RegNets (`stem.conv`), EfficientNets and MobileNets (`conv_stem`). Other nets take arguments instead, for example
    `{patch_size: 1}` for ConvNeXt or `{img_size: 32, patch_size: 4}` for ViT.
    """
    features: Any = getattr(model, "features", None)
    stem: Any = getattr(model, "stem", None)
    if hasattr(model, "conv1") and hasattr(model, "maxpool"):
        model.conv1 = _small_conv(_first_conv(model.conv1))
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


def _first_conv(stem: nn.Module) -> nn.Conv2d:
    """Return the convolution whose width the net goes on with (a deep stem is a Sequential)."""
    if isinstance(stem, nn.Conv2d):
        return stem
    return [module for module in stem.modules() if isinstance(module, nn.Conv2d)][-1]


def _small_conv(old: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(3, old.out_channels, 3, stride=1, padding=1, bias=False)


def _as_arguments(params: dict[str, Any]) -> dict[str, Any]:
    """YAML knows lists only, timm often wants tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}
