"""A member's config -> its FLOPs, by torch's own counter."""

from collections import Counter
from functools import cache

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import MemberConfig, ModelConfig
from pipeline.learning.models import create_untrained_model, hooks_of, input_spec
from pipeline.learning.predict import TTA, tta_views
from pipeline.task import Task

BATCH = 4  # enough for batch norm; the count is divided by it


def training_flops(member: MemberConfig, task: Task, *num_images: int) -> float:
    """Return the FLOPs of all epochs, forward and backward; `num_images` are those of each fold."""
    config, model = member.train, member.model.model_dump_json()
    full_size = input_spec(member.model, task).size
    batch_sizes = [config.actual_batch_size(num) for num in num_images]
    num_trained = sum(num // size * size for num, size in zip(num_images, batch_sizes, strict=True))
    stages = Counter(
        (config.image_size(epoch, full_size), config.is_whitening_frozen(epoch)) for epoch in range(config.epochs)
    )
    return sum(
        _count(model, task, size, backward=True, is_frozen=is_frozen) * num_trained * num_epochs
        for (size, is_frozen), num_epochs in stages.items()
    )


def prediction_flops(member: MemberConfig, task: Task, tta: TTA) -> float:
    """Return the FLOPs of predicting one image with one model and all TTA views."""
    return forward_flops(member, task) * len(tta_views(tta))


def forward_flops(member: MemberConfig, task: Task) -> float:
    """Return the FLOPs of one forward pass of one image."""
    size = input_spec(member.model, task).size
    return _count(member.model.model_dump_json(), task, size, backward=False, is_frozen=False)


@cache
def _count(config: str, task: Task, size: int, *, backward: bool, is_frozen: bool) -> float:
    """Return the FLOPs per image of a model's config (as JSON): two for each multiplication with its addition."""
    try:
        return _count_on("meta", config, task, size, backward=backward, is_frozen=is_frozen)
    except Exception:
        # Some models depend on values, which tensors on the meta device do not have.
        with torch.random.fork_rng(devices=()):
            return _count_on("cpu", config, task, size, backward=backward, is_frozen=is_frozen)


def _count_on(device: str, config: str, task: Task, size: int, *, backward: bool, is_frozen: bool) -> float:
    with torch.device(device):
        model = create_untrained_model(ModelConfig.model_validate_json(config), task).train(backward)
        images, labels = torch.zeros(BATCH, 3, size, size), torch.zeros(BATCH, dtype=torch.long)
    if is_frozen:
        hooks_of(model).freeze_whitening_bias()
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        loss = F.cross_entropy(model(images), labels)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops() / BATCH
