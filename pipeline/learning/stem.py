"""The stems of ImageNet models, whose strides leave a 1x1 feature map of 32 pixels, for small images."""

from typing import Any

from torch import nn


def make_stem_small(model: Any, *, keep_weights: bool) -> None:
    """Remove the strides and the pooling of a model's stem, where the stem is known.

    ResNets (`conv1`, `maxpool`), DenseNets (`features.conv0`, `pool0`), pre-activation ResNets and RegNets
    (`stem.conv`), EfficientNets and MobileNets (`conv_stem`). Other models take arguments instead, for example
    `{patch_size: 1}` for ConvNeXt or `{patch_size: 4}` for ViT. With `keep_weights` the convolutions keep their size
    and weights, which are pretrained; without, a 3x3 convolution replaces a larger one.
    """
    features: Any = getattr(model, "features", None)
    stem: Any = getattr(model, "stem", None)
    if hasattr(model, "conv1") and hasattr(model, "maxpool"):
        if keep_weights:
            _first_conv(model.conv1).stride = (1, 1)
        else:
            model.conv1 = _small_conv(_last_conv(model.conv1))
            if isinstance(model.bn1, nn.BatchNorm2d) and model.bn1.num_features != model.conv1.out_channels:
                model.bn1 = nn.BatchNorm2d(model.conv1.out_channels)
        model.maxpool = nn.Identity()
    elif features is not None and hasattr(features, "conv0") and hasattr(features, "pool0"):
        if keep_weights:
            features.conv0.stride = (1, 1)
        else:
            features.conv0 = _small_conv(features.conv0)
        features.pool0 = nn.Identity()
    elif hasattr(model, "conv_stem"):
        model.conv_stem.stride = (1, 1)
    elif isinstance(getattr(stem, "conv", None), nn.Conv2d) and stem.conv.stride == (2, 2):
        stem.conv.stride = (1, 1)
        if hasattr(stem, "pool"):
            stem.pool = nn.Identity()


def _convs(stem: nn.Module) -> list[nn.Conv2d]:
    return [module for module in stem.modules() if isinstance(module, nn.Conv2d)]


def _first_conv(stem: nn.Module) -> nn.Conv2d:
    return _convs(stem)[0]


def _last_conv(stem: nn.Module) -> nn.Conv2d:
    """Return the convolution that determines the stem's width (a deep stem is a Sequential)."""
    return _convs(stem)[-1]


def _small_conv(old: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(3, old.out_channels, 3, stride=1, padding=1, bias=False)
