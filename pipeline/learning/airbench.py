"""The networks of airbench (Jordan 2024, arXiv 2404.00498; github.com/KellerJordan/cifar10-airbench).

And AirbenchResidual, after the CIFAR-100 speedrun of October 2026 (github.com/AIDDA-Institute/CIFAR-100-speedrun).
"""

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.errors import ConfigError

WHITENED = 2 * 3 * 2 * 2  # channels: whitened patches of 2x2 pixels and 3 colours, and their negatives
WHITENED_AT_ONCE = 250  # images, whose patches take 40 times the memory of their pixels in float64


class DiracConv(nn.Conv2d):
    """A convolution whose first filters are initialised to the identity; of 2x2 pixels, to their mean."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=(kernel_size - 1) // 2, bias=False)
        with torch.no_grad():
            if kernel_size == 2:
                identity = torch.eye(min(in_channels, out_channels), in_channels) / 4
                self.weight[:in_channels] = identity[:, :, None, None]
            else:
                nn.init.dirac_(self.weight[:in_channels])


class UnscaledBatchNorm(nn.BatchNorm2d):
    """Batch norm with a trainable bias and a scale fixed at 1."""

    def __init__(self, num_channels: int, momentum: float) -> None:
        super().__init__(num_channels, eps=1e-12, momentum=momentum)
        self.weight.requires_grad = False


class ConvGroup(nn.Module):
    """Two convolutions, or three with a residual connection over the last; max pooling precedes the first norm."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = DiracConv(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.norm1: nn.Module = UnscaledBatchNorm(out_channels, norm_momentum)
        self.conv2: nn.Conv2d = DiracConv(out_channels, out_channels)
        self.norm2: nn.Module = UnscaledBatchNorm(out_channels, norm_momentum)
        self.conv3: nn.Conv2d | None = DiracConv(out_channels, out_channels) if depth == 3 else None
        self.norm3: nn.Module | None = UnscaledBatchNorm(out_channels, norm_momentum) if depth == 3 else None
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width of [batch, in_channels, height, width]."""
        x = self.act(self.norm1(self.pool(self.conv1(x))))
        residual = x
        x = self.norm2(self.conv2(x))
        if self.conv3 is not None and self.norm3 is not None:
            x = self.norm3(self.conv3(self.act(x))) + residual
        return self.act(x)

    def fuse(self) -> None:
        """Fold the norms into the convolutions before them, in evaluation mode.

        Exact up to rounding, across the pooling as well: the scale of the norm is positive, so the maximum of scaled
        values is the scaled maximum.
        """
        self.conv1, self.norm1 = _fused(self.conv1, self.norm1), nn.Identity()
        self.conv2, self.norm2 = _fused(self.conv2, self.norm2), nn.Identity()
        if self.conv3 is not None and self.norm3 is not None:
            self.conv3, self.norm3 = _fused(self.conv3, self.norm3), nn.Identity()


class ResidualGroup(nn.Module):
    """A convolution, and after the pooling a pair of convolutions with a residual connection over both.

    The first of the pair has `mid_channels`; `kernel_sizes` are those of all three.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int,
        kernel_sizes: tuple[int, int, int],
        norm_momentum: float,
    ) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = DiracConv(in_channels, out_channels, kernel_sizes[0])
        self.pool = nn.MaxPool2d(2)
        self.norm1: nn.Module = UnscaledBatchNorm(out_channels, norm_momentum)
        self.conv2: nn.Conv2d = DiracConv(out_channels, mid_channels, kernel_sizes[1])
        self.norm2: nn.Module = UnscaledBatchNorm(mid_channels, norm_momentum)
        self.conv3: nn.Conv2d = DiracConv(mid_channels, out_channels, kernel_sizes[2])
        self.norm3: nn.Module = UnscaledBatchNorm(out_channels, norm_momentum)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width of [batch, in_channels, height, width]."""
        residual = self.act(self.norm1(self.pool(self.conv1(x))))
        x = self.act(self.norm2(self.conv2(residual)))
        return self.act(self.norm3(self.conv3(x)) + residual)

    def fuse(self) -> None:
        """Fold the norms into the convolutions before them, in evaluation mode."""
        self.conv1, self.norm1 = _fused(self.conv1, self.norm1), nn.Identity()
        self.conv2, self.norm2 = _fused(self.conv2, self.norm2), nn.Identity()
        self.conv3, self.norm3 = _fused(self.conv3, self.norm3), nn.Identity()


class WhitenedNet(nn.Module):
    """A whitening layer with frozen weights, groups of convolutions and a linear classifier."""

    def __init__(
        self, groups: Iterable[ConvGroup | ResidualGroup], width: int, num_classes: int, act: nn.Module
    ) -> None:
        """`width` is the number of channels of the last group."""
        super().__init__()
        self.stem = nn.Conv2d(3, WHITENED, 2)
        self.stem.weight.requires_grad = False
        self.groups = nn.Sequential(*groups)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.act = act
        self.head = nn.Linear(width, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] of normalised images [batch, 3, height, width]."""
        return self.head(self.features(self.groups(self.act(self.stem(images))))) / 9

    def features(self, maps: Tensor) -> Tensor:
        """Return features [batch, channels] of the last group's maps [batch, channels, height, width]."""
        return self.pool(maps).flatten(1)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head

    def init_from_data(self, sample: Callable[[], Tensor]) -> None:
        """Whiten the patches of a sample of the training images, normalised inputs [N, 3, height, width]."""
        self.whiten(sample())

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the stem's weight to whiten the 2x2 patches of normalised images [N, 3, height, width]."""
        covariance, num_patches = torch.zeros(12, 12, dtype=torch.float64), 0
        for part in torch.split(images.cpu(), WHITENED_AT_ONCE):
            # On the CPU: Metal has no float64, and a GPU needs not be fast here.
            patches = part.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
            covariance += patches.T @ patches
            num_patches += len(patches)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance / num_patches)
        filters = (eigenvectors / torch.sqrt(eigenvalues + eps)).T.reshape(12, 3, 2, 2).float()
        self.stem.weight.copy_(torch.cat([filters, -filters]))
        self._stem_bias().zero_()

    def freeze_whitening_bias(self) -> None:
        """Freeze the stem's bias; the layers before the first group then need no backward pass."""
        self._stem_bias().requires_grad_(False)
        self._stem_bias().grad = None

    def fuse(self) -> None:
        """Fold all norms into convolutions, in evaluation mode."""
        for group in self.groups:
            assert isinstance(group, ConvGroup | ResidualGroup)
            group.fuse()

    def _stem_bias(self) -> Tensor:
        assert self.stem.bias is not None
        return self.stem.bias


class Airbench(WhitenedNet):
    """Three groups of two or three convolutions; global max pooling."""

    def __init__(self, num_classes: int, widths: tuple[int, int, int], depth: int, norm_momentum: float = 0.4) -> None:
        if depth not in (2, 3):
            raise ConfigError(f"model.params.depth: found {depth}, expected 2 or 3 convolutions per group")
        channels = itertools.pairwise((WHITENED, *widths))
        groups = (ConvGroup(*pair, depth, norm_momentum) for pair in channels)
        super().__init__(groups, widths[-1], num_classes, nn.GELU())


class AirbenchResidual(WhitenedNet):
    """Three residual groups, the second and third with `mid_channels` channels between their last two convolutions.

    Features are the sum of global max and mean pooling.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int, int],
        mid_channels: tuple[int, int],
        norm_momentum: float = 0.4,
    ) -> None:
        if (len(widths), len(mid_channels)) != (3, 2):
            raise ConfigError(
                f"model.params: found {len(widths)} widths and {len(mid_channels)} mid_channels, expected 3 and 2"
            )
        channels = itertools.pairwise((WHITENED, *widths))
        kernel_sizes = (3, 1, 1), (3, 3, 1), (2, 3, 3)
        groups = (
            ResidualGroup(*pair, middle, sizes, norm_momentum)
            for pair, middle, sizes in zip(channels, (widths[0], *mid_channels), kernel_sizes, strict=True)
        )
        super().__init__(groups, widths[-1], num_classes, nn.SiLU())

    def features(self, maps: Tensor) -> Tensor:
        """Return features [batch, channels] of the last group's maps [batch, channels, height, width]."""
        return self.pool(maps).flatten(1) + maps.mean((2, 3))


def _fused(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)
