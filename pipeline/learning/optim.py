"""Parameter groups and optimizers, and the learning rate as a pure function of the step."""

import math
from collections.abc import Mapping

import torch
from timm.optim import Muon
from torch import nn
from torch.optim import SGD, Optimizer

from pipeline.config import MuonConfig, OptimizerConfig, ScheduleConfig
from pipeline.errors import ConfigError

FLOAT32_MAX = torch.finfo(torch.float32).max


def lr_scale(step: int, num_steps: int, schedule: ScheduleConfig) -> float:
    """Return the factor of the peak learning rate at a step (from 0)."""
    if schedule.kind == "constant":
        return 1.0
    done = step / num_steps
    if done < schedule.warmup_fraction:
        return schedule.start_factor + (1 - schedule.start_factor) * done / schedule.warmup_fraction
    left = (1 - done) / (1 - schedule.warmup_fraction) if schedule.warmup_fraction < 1 else 0.0
    if schedule.kind == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return schedule.end_factor + (1 - schedule.end_factor) * left


class NormalizedMuon(Muon):
    """timm's Muon, with each convolution's weight first rescaled to the norm sqrt(output channels).

    Source: airbench94_muon. With the norm fixed, the learning rate is the angular step size.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Rescale, then step."""
        for group in self.param_groups:
            for weight in group["params"]:
                weight.mul_(len(weight) ** 0.5 / weight.norm())
        super().step(closure)


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> dict[str, Optimizer]:
    """Assign every trainable parameter to one optimizer: `muon` for the convolutions if configured, else `sgd`.

    An optimizer without parameters is left out. Each group keeps its peak learning rate as `initial_lr`. Raises
    ConfigError for a learning rate or weight decay that float32 can't hold.
    """
    scales = {"norm_bias": config.norm_bias_lr_scale, "head": config.head_lr_scale, "rest": 1.0}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in (*scales, "muon")}
    head = _classifier_parameters(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_group(name, parameter, head, has_muon=config.muon is not None)].append(parameter)
    sgd_groups = [
        # SGD multiplies the decay by the scaled learning rate; dividing by the scale cancels that.
        {"params": groups[name], "lr": config.lr * scale, "weight_decay": config.weight_decay / scale}
        for name, scale in scales.items()
        if groups[name]
    ]
    optimizers: dict[str, Optimizer] = {}
    if sgd_groups:
        optimizers["sgd"] = SGD(sgd_groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    if config.muon is not None and groups["muon"]:
        optimizers["muon"] = _make_muon(groups["muon"], config.muon)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            if max(group["lr"], group["weight_decay"]) > FLOAT32_MAX:
                raise ConfigError("train.optimizer: a learning rate or weight decay, with its scale, exceeds float32")
            group["initial_lr"] = group["lr"]
    set_learning_rates(optimizers, 1.0)
    return optimizers


def set_learning_rates(optimizers: Mapping[str, Optimizer], scale: float) -> None:
    """Set every group's learning rate to `scale` times its peak."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
            group["schedule_scale"] = scale


def learning_rates(optimizers: Mapping[str, Optimizer]) -> dict[str, float]:
    """Return the current learning rate of each optimizer, without the scales of the norm biases and the head."""
    return {
        name: optimizer.defaults["lr"] * optimizer.param_groups[0]["schedule_scale"]
        for name, optimizer in optimizers.items()
    }


def _make_muon(parameters: list[nn.Parameter], config: MuonConfig) -> Muon:
    muon = NormalizedMuon if config.normalize_filters else Muon
    return muon(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=True,
        ns_steps=config.ns_steps,
        adjust_lr_fn=None,
    )


def _classifier_parameters(model: nn.Module) -> frozenset[nn.Parameter]:
    """Return the parameters of a timm model's classifier; distilled models have several classifiers."""
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return frozenset()
    classifier = get_classifier()
    modules = classifier if isinstance(classifier, tuple) else (classifier,)
    return frozenset(parameter for module in modules for parameter in module.parameters())


def _group(name: str, parameter: nn.Parameter, head: frozenset[nn.Parameter], *, has_muon: bool) -> str:
    if parameter.ndim == 4 and has_muon:
        return "muon"
    if parameter in head:
        return "head"
    if parameter.ndim == 1 and name.endswith("bias") and ("norm" in name or "bn" in name or name.startswith("stem.")):
        return "norm_bias"
    return "rest"
