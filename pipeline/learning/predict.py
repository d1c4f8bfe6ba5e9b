"""Model + images -> probabilities. Validation and test use this one path."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.learning.dataset import normalize
from pipeline.progress import OnImages, unseen

Views = Literal["identity", "mirror", "mirror_shift"]


def weighted_views(images: Tensor, views: Views) -> list[tuple[float, Tensor]]:
    """Return the views of images [batch, channels, height, width], each with its weight; the weights sum to 1.

    `mirror_shift` is airbench's: half of the weight on the image and its mirror, half on both shifted by one pixel
    along the diagonal, to either side, over reflected borders.
    """
    if views == "identity":
        return [(1.0, images)]
    if views == "mirror":
        return [(0.5, images), (0.5, images.flip(-1))]
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[..., :height, :width], padded[..., 2:, 2:]]
    return [(0.25, images), (0.25, images.flip(-1)), *((0.125, v) for s in shifted for v in (s, s.flip(-1)))]


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: NDArray[np.uint8],
    *,
    views: Views,
    batch_size: int,
    device: torch.device,
    autocast: bool = False,
    on_images: OnImages = unseen,
) -> NDArray[np.float32]:
    """Return the probabilities [N, classes] of uint8 images [N, 32, 32, 3], the logits averaged over the views.

    `on_images` hears how many images are done, and of how many.
    """
    model.eval()
    parts = []
    for start in range(0, len(images), batch_size):
        # A copy: the images are usually a read-only memory map.
        batch = torch.from_numpy(np.array(images[start : start + batch_size]))
        inputs = normalize(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = [weight * model(view).float() for weight, view in weighted_views(inputs, views)]
        parts.append(torch.stack(logits).sum(0).softmax(1).cpu())
        on_images(start + len(batch), len(images))
    return torch.cat(parts).numpy()
