"""Model + images -> logits or probabilities. Validation and test use this one path."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.learning.dataset import normalize
from pipeline.learning.device import Machine
from pipeline.learning.models import ConvGroup
from pipeline.progress import ProgressCallback, no_progress

TTA = Literal["identity", "mirror", "mirror_shift"]


@dataclass(frozen=True)
class TTAView:
    """One way to look at an image, and what its logits weigh."""

    weight: float
    mirrored: bool = False
    shift: int = 0
    """Pixels along the diagonal, over reflected borders."""

    def of(self, images: Tensor) -> Tensor:
        """Return this view of images [batch, channels, height, width]."""
        if self.shift:
            height, width = images.shape[-2:]
            reach, first = abs(self.shift), abs(self.shift) - self.shift
            padded = F.pad(images, (reach,) * 4, mode="reflect")
            images = padded[..., first : first + height, first : first + width]
        return images.flip(-1) if self.mirrored else images


def tta_views(name: TTA) -> tuple[TTAView, ...]:
    """Return the views that a recipe names; their weights sum to 1.

    `mirror_shift` is airbench's: half of the weight on the image and its mirror, half on both shifted by one pixel
    along the diagonal, to either side.
    """
    if name == "identity":
        return (TTAView(1.0),)
    if name == "mirror":
        return TTAView(0.5), TTAView(0.5, mirrored=True)
    shifted = [TTAView(0.125, mirrored, shift) for shift in (1, -1) for mirrored in (False, True)]
    return TTAView(0.25), TTAView(0.25, mirrored=True), *shifted


def for_inference(model: nn.Module, machine: Machine) -> nn.Module:
    """Return a copy that only predicts, the norms of our own nets folded into the convolutions before them.

    Exact up to rounding, with a pooling in between too: the scale of a batch norm that learns none is positive, so the
    maximum of scaled values is the scaled maximum.
    """
    folded = copy.deepcopy(model).eval()
    for group in folded.modules():
        if isinstance(group, ConvGroup):
            for conv, norm in (("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")):
                if getattr(group, norm) is not None:
                    setattr(group, conv, fuse_conv_bn_eval(getattr(group, conv), getattr(group, norm)))
                    setattr(group, norm, nn.Identity())
    folded = folded.to(memory_format=torch.channels_last)
    if machine.compile:
        folded.compile()
    return folded


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: NDArray[np.uint8],
    views: Sequence[TTAView],
    machine: Machine,
    *,
    on_images: ProgressCallback = no_progress,
) -> NDArray[np.float32]:
    """Return the logits [N, classes] of uint8 images [N, 32, 32, 3], summed over the views by their weights.

    `model` comes from `for_inference`. `on_images` hears how many images are done, and of how many.
    """
    parts = []
    for start in range(0, len(images), machine.predict_batch):
        # A copy: the images are usually a read-only memory map.
        batch = np.array(images[start : start + machine.predict_batch])
        num_images = len(batch)
        if machine.compile:  # every other size of a batch would be compiled anew
            batch = np.resize(batch, (machine.predict_batch, *batch.shape[1:]))
        inputs = normalize(torch.from_numpy(batch), machine.device)
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.autocast):
            logits = [view.weight * model(view.of(inputs)).float() for view in views]
        parts.append(torch.stack(logits).sum(0)[:num_images].cpu())
        on_images(start + num_images, len(images))
    return torch.cat(parts).numpy()


def predict(
    model: nn.Module, images: NDArray[np.uint8], views: TTA, machine: Machine, *, on_images: ProgressCallback = no_progress
) -> NDArray[np.float32]:
    """Return the probabilities [N, classes] of uint8 images [N, 32, 32, 3] by a trained model with all views."""
    logits = predict_logits(for_inference(model, machine), images, tta_views(views), machine, on_images=on_images)
    return torch.from_numpy(logits).softmax(1).numpy()
