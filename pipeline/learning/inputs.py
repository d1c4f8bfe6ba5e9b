"""How a batch of uint8 images becomes a model's input: the one path of training, validation, test and report."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.transfer import to_device
from pipeline.task import Task


@dataclass(frozen=True)
class InputSpec:
    """Height and width in pixels, normalisation on the scale 0 to 1, and the interpolation of a resize."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @classmethod
    def for_task(cls, task: Task) -> "InputSpec":
        """Return the input of a model trained from scratch: the dataset's own size, mean and standard deviation."""
        return cls(task.image_size, task.mean, task.std)

    def at_size(self, size: int) -> "InputSpec":
        """Return the same input at another size, for progressive resizing."""
        return replace(self, size=size)

    def to_input(self, images: Tensor, device: torch.device) -> Tensor:
        """Turn uint8 [batch, height, width, 3] into normalised float32 [batch, 3, size, size], channels last."""
        mean, scale = _normalization(self.mean, self.std, device)
        inputs = ((to_device(images, device).float() - mean) * scale).permute(0, 3, 1, 2)
        if inputs.shape[-1] == self.size:
            return inputs
        return F.interpolate(inputs, self.size, mode=self.interpolation, antialias=True)

    def to_images(self, inputs: Tensor) -> NDArray[np.uint8]:
        """Turn normalised float32 [batch, 3, height, width] back into uint8 [batch, height, width, 3]."""
        pixels = 255 * (inputs.permute(0, 2, 3, 1).cpu() * torch.tensor(self.std) + torch.tensor(self.mean))
        return pixels.round().clamp(0, 255).to(torch.uint8).numpy()


@cache
def _normalization(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what to subtract from pixels and what to multiply by; cached, as the copy to a GPU waits for its work."""
    with torch.inference_mode(mode=False):
        return 255 * torch.tensor(mean, device=device), 1 / (255 * torch.tensor(std, device=device))
