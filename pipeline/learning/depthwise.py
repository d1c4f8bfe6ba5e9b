"""Depthwise convolutions in float32 inside a training in bf16."""

from functools import cache

import torch
from torch import Tensor, nn


def train_depthwise_in_float32(model: nn.Module) -> None:
    """Exempt the depthwise convolutions of a model from autocast.

    On a CPU their backward pass in bf16 takes several times as long as in float32, while that of dense convolutions is
    faster (docs/experiments.md).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels:
            # A subclass, not a wrapper: names of parameters stay, and copies of the model work.
            module.__class__ = _in_float32(type(module))  # type: ignore[arg-type]  # a class is hashable


@cache
def _in_float32(convolution: type[nn.Conv2d]) -> type[nn.Conv2d]:
    class Float32(convolution):  # type: ignore[valid-type, misc]
        def forward(self, inputs: Tensor) -> Tensor:
            with torch.autocast(inputs.device.type, enabled=False):
                return super().forward(inputs.float())

    Float32.__name__ = f"Float32{convolution.__name__}"
    return Float32
