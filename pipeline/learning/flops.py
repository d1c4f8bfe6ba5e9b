"""A member's recipe -> the floating point operations that it takes, by torch's own counter."""

from functools import cache

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import MemberConfig, ModelConfig
from pipeline.learning.models import NUM_CLASSES, Airbench, create_model
from pipeline.learning.predict import TTA, tta_views

BATCH = 4  # enough for batch norm; the count is divided by it
FULL_SIZE = 32


def training_flop(member: MemberConfig, *num_images: int) -> float:
    """Return the operations of all epochs, forward and backward; one number of training images for each fold."""
    config, model = member.train, member.model.model_dump_json()
    batch_sizes = [min(config.batch_size, num) for num in num_images]
    num_seen = sum(num // size * size for num, size in zip(num_images, batch_sizes, strict=True))
    total = 0.0
    for epoch in range(config.epochs):
        is_frozen = config.whiten_bias_epochs is not None and epoch >= config.whiten_bias_epochs
        total += _count(model, config.image_size(epoch), backward=True, is_frozen=is_frozen) * num_seen
    return total


def prediction_flop(member: MemberConfig, views: TTA, num_images: int) -> float:
    """Return the operations of predicting so many images with all views."""
    return pass_flop(member) * len(tta_views(views)) * num_images


def pass_flop(member: MemberConfig) -> float:
    """Return the operations of one pass: one view of one image through one net."""
    return _count(member.model.model_dump_json(), FULL_SIZE, backward=False, is_frozen=False)


@cache
def _count(config: str, size: int, *, backward: bool, is_frozen: bool) -> float:
    """Return the operations of a model's config (as JSON) for one image: two for each multiplication with its addition.

    Building a net to count takes tenths of a second, and every fold and every slice of test images asks.
    """
    model = create_model(ModelConfig.model_validate_json(config)).train(backward)
    if is_frozen and isinstance(model, Airbench):
        model.freeze_whitening()
    images, classes = torch.zeros(BATCH, 3, size, size), torch.arange(BATCH) % NUM_CLASSES
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        loss = F.cross_entropy(model(images), classes)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / BATCH
