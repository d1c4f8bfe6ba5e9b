"""A member's recipe -> the floating point operations that it takes, by torch's own counter."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import MemberConfig
from pipeline.learning.models import NUM_CLASSES, WhitenedCNN, create_model
from pipeline.learning.predict import Views, views_of

BATCH = 4  # enough for batch norm; the count is divided by it
FULL_SIZE = 32


def training_flop(member: MemberConfig, *num_images: int) -> float:
    """Return the operations of all epochs, forward and backward; one number of training images for each fold."""
    config, model = member.train, create_model(member.model).train()
    batch_sizes = [min(config.batch_size, num) for num in num_images]
    num_seen = sum(num // size * size for num, size in zip(num_images, batch_sizes, strict=True))
    per_image: dict[tuple[int, bool], float] = {}
    total = 0.0
    for epoch in range(config.epochs):
        is_frozen = config.whiten_bias_epochs is not None and epoch >= config.whiten_bias_epochs
        if is_frozen and isinstance(model, WhitenedCNN):
            model.freeze_whitening()
        kind = (config.image_size(epoch), is_frozen)
        if kind not in per_image:
            per_image[kind] = _count(model, config.image_size(epoch), backward=True)
        total += per_image[kind] * num_seen
    return total


def prediction_flop(member: MemberConfig, views: Views, num_images: int) -> float:
    """Return the operations of predicting so many images with all views."""
    return pass_flop(member) * len(views_of(views)) * num_images


def pass_flop(member: MemberConfig) -> float:
    """Return the operations of one pass: one view of one image through one net."""
    return _count(create_model(member.model).eval(), FULL_SIZE, backward=False)


def _count(model: nn.Module, size: int, *, backward: bool) -> float:
    """Return the operations for one image: two for each multiplication with its addition."""
    images, classes = torch.zeros(BATCH, 3, size, size), torch.arange(BATCH) % NUM_CLASSES
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        loss = F.cross_entropy(model(images), classes)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / BATCH
