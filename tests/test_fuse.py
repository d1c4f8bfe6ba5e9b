"""Batch norms folded into convolutions."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.learning.fuse import fuse_batch_norms


def num_norms(model):
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def with_statistics(model):
    """Give batch norms statistics, scales and biases as after a training."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


class Small(nn.Module):
    """A convolution, and a batch norm of which a subclass makes another use."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ReadTwice(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class UsedTwice(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(x + 1)


class ReadsTheWeight(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv.weight.sum()


class DependsOnValues(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class Standardized(Small):
    def __init__(self):
        super().__init__()
        self.conv = timm.layers.StdConv2d(3, 4, 3)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("test_efficientnet", 0), ("test_resnet", 0), ("tf_efficientnet_lite0", 0), ("mobilenetv3_small_050", 0),
        ("resnetv2_18", 9), ("densenet121", 62), ("test_vit", 0), ("test_convnext", 0),
    ],
)  # fmt: skip
def test_fused_model_of_timm_predicts_the_same_without_norms(name, left):
    model = with_statistics(timm.create_model(name, num_classes=10))
    inputs = torch.randn(4, 3, 64, 64) if "vit" not in name else torch.randn(4, 3, *model.patch_embed.img_size)
    with torch.inference_mode():
        before = model(inputs)
    fuse_batch_norms(model)

    with torch.inference_mode():
        assert torch.allclose(model(inputs), before, rtol=1e-3, atol=1e-4)
    assert num_norms(model) == left


@pytest.mark.parametrize(
    ("model_class", "left"),
    [(Small, 0), (ReadTwice, 1), (UsedTwice, 1), (ReadsTheWeight, 1), (DependsOnValues, 1), (Standardized, 1)],
)
def test_norm_stays_where_folding_would_change_the_result(model_class, left):
    model, inputs = with_statistics(model_class()), torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        before = model(inputs)
        fuse_batch_norms(model)
        after = model(inputs)

    assert num_norms(model) == left
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-6)
