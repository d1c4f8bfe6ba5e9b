"""Which parts of an image a prediction depends on. The only module that imports captum."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.learning.device import Machine
from pipeline.learning.inputs import InputSpec

WINDOWS = 4  # per side of an image; they overlap by half
BATCH_SIZE = 64


def occlusion_maps(
    model: nn.Module, spec: InputSpec, images: NDArray[np.uint8], labels: NDArray[np.int64], machine: Machine
) -> NDArray[np.float32]:
    """Return maps [N, height, width]: how much the probability of a class drops if the area around a pixel is occluded.

    For uint8 images [N, height, width, 3] and one label for each [N]. A square of a quarter of the width is replaced by
    the mean colour, everywhere in turn (Zeiler and Fergus 2014); it works with models of any kind. `model` comes from
    `for_inference`.
    """
    from captum.attr import Occlusion

    def probabilities(inputs: Tensor) -> Tensor:
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.autocast):
            logits = model(inputs)
        return logits.float().softmax(1)

    inputs = spec.to_input(torch.from_numpy(np.array(images)), machine.device)
    window, stride = max(2, spec.size // WINDOWS), max(1, spec.size // WINDOWS // 2)
    with torch.inference_mode():
        maps = Occlusion(probabilities).attribute(
            inputs,
            sliding_window_shapes=(inputs.shape[1], window, window),
            strides=(inputs.shape[1], stride, stride),
            baselines=0.0,
            target=torch.from_numpy(labels).to(machine.device),
            perturbations_per_eval=max(1, BATCH_SIZE // len(inputs)),
        )
        resized: NDArray[np.float32] = (
            F.interpolate(maps[:, :1].float(), images.shape[1], mode="area")[:, 0].cpu().numpy()
        )
    return resized
