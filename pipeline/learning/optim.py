"""Parameter groups and optimizers, and the learning rate as a pure function of the step."""

import math

import torch
from timm.optim import Muon
from torch import nn
from torch.optim import SGD, Optimizer

from pipeline.config import MuonConfig, OptimizerConfig, ScheduleConfig


def lr_fraction(step: int, num_steps: int, schedule: ScheduleConfig) -> float:
    """Return the learning rate of a step (from 0) as a fraction of its peak."""
    if schedule.kind == "constant":
        return 1.0
    done = step / num_steps
    if done < schedule.peak:
        return schedule.start + (1 - schedule.start) * done / schedule.peak
    left = (1 - done) / (1 - schedule.peak) if schedule.peak < 1 else 0.0
    if schedule.kind == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return schedule.end + (1 - schedule.end) * left


class NormalizedMuon(Muon):
    """timm's Muon that first rescales each filter bank to the norm sqrt(output channels).

    Source: airbench94_muon. With the norm held, the learning rate alone says how far a step turns a filter.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Rescale, then step."""
        for group in self.param_groups:
            for filters in group["params"]:
                filters.mul_(len(filters) ** 0.5 / filters.norm())
        super().step(closure)


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Put every weight that learns into one optimizer; each group remembers its peak rate as `initial_lr`."""
    scales = {"norm_bias": config.norm_bias_lr_scale, "head": config.head_lr_scale, "rest": 1.0}
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in (*scales, "filters")}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[_kind(name, weight, has_muon=config.muon is not None)].append(weight)
    sgd_groups = [
        # The decay is divided by the scale: SGD multiplies both by the scaled rate.
        {"params": groups[kind], "lr": config.lr * scale, "weight_decay": config.weight_decay / scale}
        for kind, scale in scales.items()
        if groups[kind]
    ]
    optimizers: list[Optimizer] = []
    if sgd_groups:
        optimizers.append(SGD(sgd_groups, momentum=config.momentum, nesterov=config.nesterov))
    if config.muon is not None and groups["filters"]:
        optimizers.append(_make_muon(groups["filters"], config.muon))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def set_learning_rates(optimizers: list[Optimizer], fraction: float) -> None:
    """Give every group its peak rate times the fraction."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * fraction


def _make_muon(filters: list[nn.Parameter], config: MuonConfig) -> Muon:
    kind = NormalizedMuon if config.normalize_filters else Muon
    return kind(
        filters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=True,
        ns_steps=config.ns_steps,
        adjust_lr_fn=None,
    )


def _kind(name: str, weight: nn.Parameter, *, has_muon: bool) -> str:
    if weight.ndim == 4 and has_muon:
        return "filters"
    if name.startswith(("head.", "fc.", "classifier.")):
        return "head"
    if weight.ndim == 1 and name.endswith("bias") and ("norm" in name or "bn" in name or name.startswith("stem.")):
        return "norm_bias"
    return "rest"
