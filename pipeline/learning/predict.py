"""Model + images -> logits, averaged over TTA views. Validation and test use this one path."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.learning.compile import compile_model
from pipeline.learning.device import Machine
from pipeline.learning.fuse import fuse_batch_norms
from pipeline.learning.inputs import InputSpec
from pipeline.learning.models import hooks_of
from pipeline.predictions import Logits
from pipeline.progress import ProgressCallback, log, no_progress

TTA = Literal["none", "flip", "flip_translate"]


@dataclass(frozen=True)
class TTAView:
    """One test-time augmentation, and the weight of its logits."""

    weight: float
    flipped: bool = False
    translation: int = 0
    """Pixels of the dataset's images along the diagonal, with reflected borders."""

    def apply(self, images: Tensor, image_size: int) -> Tensor:
        """Return this view of inputs [batch, channels, height, width], which are resized images of `image_size`."""
        if self.translation:
            height, width = map(int, images.shape[-2:])  # torch.jit.trace has tensors there
            translation = round(self.translation * height / image_size)
            padding, start = abs(translation), abs(translation) - translation
            padded = F.pad(images, (padding,) * 4, mode="reflect")
            images = padded[..., start : start + height, start : start + width]
        return images.flip(-1) if self.flipped else images


def tta_views(tta: TTA) -> tuple[TTAView, ...]:
    """Return the views of a test-time augmentation; their weights sum to 1.

    `flip_translate` is airbench's: half of the weight on the image and its flip, half on both translated by one pixel
    along the diagonal, in either direction.
    """
    if tta == "none":
        return (TTAView(1.0),)
    if tta == "flip":
        return TTAView(0.5), TTAView(0.5, flipped=True)
    translated = [TTAView(0.125, flipped, translation) for translation in (1, -1) for flipped in (False, True)]
    return TTAView(0.25), TTAView(0.25, flipped=True), *translated


def for_inference(model: nn.Module, machine: Machine) -> nn.Module:
    """Return a copy for inference: evaluation mode, batch norms folded into convolutions, compiled if configured."""
    fused = copy.deepcopy(model).eval()
    hooks_of(fused).fuse()
    fuse_batch_norms(fused)
    fused = fused.to(memory_format=torch.channels_last)
    if machine.compile:
        compile_model(fused)
    return fused


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    spec: InputSpec,
    images: NDArray[np.uint8],
    views: Sequence[TTAView],
    machine: Machine,
    *,
    on_progress: ProgressCallback = no_progress,
) -> Logits:
    """Return logits [N, classes] of uint8 images [N, height, width, 3]: the weighted mean over the views.

    `model` comes from `for_inference`. `on_progress` is called with (done, total) images. A GPU that runs out of memory
    gets smaller batches. Raises TrainingError for logits that are not finite.
    """
    parts: list[Tensor] = []
    num_done, batch_size = 0, machine.predict_batch_size
    while num_done < len(images):
        try:
            parts.append(
                _predict_batch(model, spec, images[num_done : num_done + batch_size], views, machine, batch_size)
            )
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = (batch_size + 1) // 2
            log.warning("the GPU is out of memory: predicting %d images at a time from now on", batch_size)
            continue
        num_done += len(parts[-1])
        on_progress(num_done, len(images))
    mean = (torch.cat(parts) / sum(view.weight for view in views)).numpy()
    num_invalid = int((~np.isfinite(mean)).any(axis=1).sum())
    if num_invalid:
        raise TrainingError(
            f"the model's predictions of {num_invalid:,} of {len(images):,} images are not finite: its training has "
            "diverged; lower train.optimizer.lr (or muon.lr) and choose another --run"
        )
    return mean


def _predict_batch(
    model: nn.Module,
    spec: InputSpec,
    images: NDArray[np.uint8],
    views: Sequence[TTAView],
    machine: Machine,
    batch_size: int,
) -> Tensor:
    """Return the weighted sum over the views of the logits [N, classes] of at most `batch_size` images, on the CPU."""
    # A copy: the images are usually a read-only memory map. A batch of any other size would be compiled again.
    batch = np.resize(images, (batch_size, *images.shape[1:])) if machine.compile else np.array(images)
    inputs = spec.to_input(torch.from_numpy(batch), machine.device)
    with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.autocast):
        logits = [view.weight * model(view.apply(inputs, images.shape[1])).float() for view in views]
    return torch.stack(logits).sum(0)[: len(images)].cpu()


def predict(
    model: nn.Module,
    spec: InputSpec,
    images: NDArray[np.uint8],
    tta: TTA,
    machine: Machine,
    *,
    on_progress: ProgressCallback = no_progress,
) -> Logits:
    """Return logits [N, classes] of uint8 images [N, height, width, 3] by a trained model with all TTA views."""
    model = for_inference(model, machine)
    return predict_logits(model, spec, images, tta_views(tta), machine, on_progress=on_progress)
