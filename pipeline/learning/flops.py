"""A member's config -> its FLOPs, by torch's own counter, and an estimate of the memory of its training."""

import math
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pipeline.learning.freeze import Freezer
from pipeline.learning.linear_head import VIEWS
from pipeline.learning.models import classifier_names, create_untrained_model, hooks_of, input_spec
from pipeline.learning.predict import TTA, tta_views
from pipeline.member_config import FreezeConfig, MemberConfig, ModelConfig, Phase
from pipeline.results import FoldCompute
from pipeline.task import Task

BATCH = 4  # enough for batch norm; the count is divided by it
PROCESS_MEMORY = 400_000_000  # bytes of a process that trains a tiny model
COPIES_OF_WEIGHTS = 6  # themselves, gradients, two of the optimizer, the average, a checkpoint
ACTIVATIONS_FACTOR = 1.5  # gradients of activations, and copies of another precision


def training_flops(member: MemberConfig, task: Task, num_images: int) -> float:
    """Return the FLOPs of all epochs on a number of training images, forward and backward.

    Of a linear head: of its features. Folds share them, and each counts those of its images.
    """
    if member.head == "linear":
        return num_images * forward_flops(member, task) * len(VIEWS)
    config, full_size = member.train, input_spec(member.model, task).size
    batch_size = config.actual_batch_size(num_images)
    num_trained = num_images // batch_size * batch_size
    model, freeze = member.model.model_dump_json(), config.freeze.model_dump_json()
    return sum(
        _count(model, task, phase, freeze).flops * num_trained * num_epochs
        for phase, num_epochs in config.phases(full_size).items()
    )


def training_memory(member: MemberConfig, task: Task, num_images: int) -> int:
    """Return about how many bytes a process takes that trains a fold with a number of training images on the CPU."""
    if member.head == "linear":
        return PROCESS_MEMORY  # it trains in the main process
    config, full_size = member.train, input_spec(member.model, task).size
    model, freeze = member.model.model_dump_json(), config.freeze.model_dump_json()
    costs = [_count(model, task, phase, freeze) for phase in config.phases(full_size)]
    batch_size = config.actual_batch_size(num_images) / config.accumulate
    activations = ACTIVATIONS_FACTOR * batch_size * max(cost.activations for cost in costs)
    weights = COPIES_OF_WEIGHTS * max(cost.weights for cost in costs)
    return int(PROCESS_MEMORY + num_images * math.prod(task.image_shape) + activations + weights)


def prediction_flops(member: MemberConfig, task: Task, tta: TTA) -> float:
    """Return the FLOPs of predicting one image with one model and all TTA views."""
    return forward_flops(member, task) * len(tta_views(tta))


def fold_compute(member: MemberConfig, task: Task, num_images: int, tta: TTA) -> FoldCompute:
    """Return the FLOPs of a fold with a number of training images."""
    return FoldCompute(
        training_flops=training_flops(member, task, num_images),
        prediction_flops_per_image=prediction_flops(member, task, tta),
    )


def forward_flops(member: MemberConfig, task: Task) -> float:
    """Return the FLOPs of one forward pass of one image."""
    phase = Phase(input_spec(member.model, task).size, is_whitening_frozen=False, is_head_only=False)
    return _count(member.model.model_dump_json(), task, phase, None).flops


class _Cost(NamedTuple):
    flops: float
    """Per image."""
    activations: float
    """Bytes per image that the backward pass needs, in float32."""
    weights: int
    """Bytes."""


@cache
def _count(config: str, task: Task, phase: Phase, freeze: str | None) -> _Cost:
    """Return the cost of a model's config (as JSON); a multiplication with its addition is two FLOPs.

    With `freeze`, a FreezeConfig (as JSON), those of a training step, else those of a forward pass.
    """
    try:
        return _count_on("meta", config, task, phase, freeze)
    except Exception:
        # Some models depend on values, which tensors on the meta device do not have.
        with torch.random.fork_rng(devices=()):
            return _count_on("cpu", config, task, phase, freeze)


def _conv_backward_flops(
    grad_out_shape: list[int],
    x_shape: list[int],
    w_shape: list[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    output_mask: list[bool],
    **_: object,
) -> int:
    """Return those of the forward pass for each gradient: torch counts a depthwise weight's like a dense one's."""
    forward: int = conv_flop_count(x_shape, w_shape, grad_out_shape, transposed=transposed)
    return forward * sum(output_mask[:2])


_BACKWARD_OF_GROUPS = {torch.ops.aten.convolution_backward: _conv_backward_flops}


def _count_on(device: str, config: str, task: Task, phase: Phase, freeze: str | None) -> _Cost:
    is_training, size = freeze is not None, phase.image_size
    with torch.device(device):
        model = create_untrained_model(ModelConfig.model_validate_json(config), task).train(is_training)
        images, labels = torch.zeros(BATCH, 3, size, size), torch.zeros(BATCH, dtype=torch.long)
    if freeze is not None:
        freezer = Freezer(model, FreezeConfig.model_validate_json(freeze), classifier_names(model))
        freezer.apply(is_head_only=phase.is_head_only)
    if phase.is_whitening_frozen:
        hooks_of(model).freeze_whitening_bias()
    weights, saved = [*model.parameters(), *model.buffers()], dict[int, int]()
    own = {tensor.untyped_storage()._cdata for tensor in weights}

    def pack(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with (
        FlopCounterMode(display=False, custom_mapping=_BACKWARD_OF_GROUPS) as counter,
        torch.set_grad_enabled(is_training),
        saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        loss = F.cross_entropy(model(images), labels)
        if is_training:
            loss.backward()  # type: ignore[no-untyped-call]
    num_bytes = sum(tensor.nbytes for tensor in weights)
    return _Cost(counter.get_total_flops() / BATCH, sum(saved.values()) / BATCH, num_bytes)
