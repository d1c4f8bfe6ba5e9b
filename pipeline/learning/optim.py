"""Parameter groups and optimizers, and the learning rate as a pure function of the step."""

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from timm.optim import Muon, create_optimizer_v2, list_optimizers
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.error_messages import on_one_line
from pipeline.errors import ConfigError
from pipeline.learning.freeze import layers_of
from pipeline.learning.models import as_arguments, classifier_names
from pipeline.member_config import MuonConfig, OptimizerConfig, ScheduleConfig

FLOAT32_MAX = torch.finfo(torch.float32).max
FUSED = {"adam", "adamw", "momentum", "nesterov", "sgd"}  # torch's own optimizers under timm's names
COUNTERS = {"step", "lookahead_step"}  # that some optimizers keep in their parameter groups


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
    """Assign every trainable parameter to one optimizer: `muon` for dense convolutions and matrices if configured.

    The other one has the name of the config. An optimizer without parameters is left out. Each group keeps its peak
    learning rate as `initial_lr`. Raises ConfigError for an unknown optimizer, arguments that it does not accept, and a
    learning rate or weight decay that float32 can't hold.
    """
    optimizers: dict[str, Optimizer] = {}
    for_muon = _muon_parameters(model) if config.muon is not None else {}
    groups = _parameter_groups(model, config, without=for_muon.keys())
    if groups:
        optimizers[config.name] = _make_optimizer(groups, config)
    if config.muon is not None and for_muon:
        optimizers["muon"] = _make_muon(list(for_muon.values()), config.muon)
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


def optimizer_tensors(optimizer: Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimizer's state as a flat dict: `INDEX.KEY` of a parameter, `group.INDEX.KEY` of a group's counters.

    `number` in front of a name marks a number, which is no tensor in the optimizer. Raises ConfigError for anything
    else.
    """
    state = optimizer.state_dict()
    entries = {f"{index}.{key}": value for index, values in state["state"].items() for key, value in values.items()}
    entries |= {
        f"group.{index}.{key}": group[key]
        for index, group in enumerate(state["param_groups"])
        for key in COUNTERS & group.keys()
    }
    tensors: dict[str, Tensor] = {}
    for key, value in entries.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        elif isinstance(value, int | float):
            dtype = torch.float64 if isinstance(value, float) else torch.int64
            tensors[f"{prefix}number.{key}"] = torch.tensor(value, dtype=dtype)
        elif value is not None:
            raise ConfigError(
                f"train.optimizer.name: the state of {type(optimizer).__name__} can't be saved, as {key} is a "
                f"{type(value).__name__}; choose another optimizer"
            )
    return tensors


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned, without its prefix. Raises KeyError, ValueError for other tensors."""
    current = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in current["param_groups"]]
    for name, tensor in tensors.items():
        value = tensor.item() if name.startswith("number.") else tensor
        name = name.removeprefix("number.")
        index, key = name.removeprefix("group.").split(".", 1)
        entries = groups[int(index)] if name.startswith("group.") else state.setdefault(int(index), {})
        entries[key] = value
    optimizer.load_state_dict({**current, "state": state, "param_groups": groups})


def _parameter_groups(model: nn.Module, config: OptimizerConfig, without: Collection[str]) -> list[dict[str, Any]]:
    """Group the trainable parameters that share a learning rate and a weight decay: by role, then by layer."""
    scales = {"norm_bias": config.norm_bias_lr_scale, "head": config.head_lr_scale, "rest": 1.0}
    layers = {} if config.layer_decay is None else layers_of(model, "train.optimizer.layer_decay", coarse=False)
    head, last = classifier_names(model), max(layers.values(), default=0)
    excluded: Collection[str] = getattr(model, "no_weight_decay", set)()
    groups: dict[tuple[int, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in without:
            decays = config.decay_norms_and_biases or (parameter.ndim > 1 and name not in excluded)
            key = list(scales).index(_role(name, parameter, head)), layers.get(name, last), decays
            groups.setdefault(key, []).append(parameter)
    result = []
    for (role, layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0]):
        scale = list(scales.values())[role]
        layer_scale = (config.layer_decay or 1.0) ** (last - layer)
        # The decay is multiplied by the scaled learning rate; dividing by the role's scale cancels that.
        weight_decay = config.weight_decay / scale if decays else 0.0
        result.append({"params": parameters, "lr": config.lr * scale * layer_scale, "weight_decay": weight_decay})
    return result


def _make_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    """Create an optimizer of timm. Raises ConfigError."""
    if config.name not in list_optimizers():
        similar = difflib.get_close_matches(config.name, list_optimizers(), n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ", expected one of timm.optim, such as adamw"
        raise ConfigError(f"train.optimizer.name: unknown optimizer {config.name!r}{hint}")
    if config.name == "adahessian":
        raise ConfigError("train.optimizer.name: adahessian needs second derivatives; choose another optimizer")
    params = as_arguments(config.params)
    if config.name in FUSED and groups[0]["params"][0].is_cuda and "foreach" not in params:
        # One kernel per group instead of a dozen, whose start takes longer than their work.
        params = {"fused": True, **params}
    # What timm calls sgd has Nesterov momentum, and momentum is sgd without it.
    name = "momentum" if config.name == "sgd" and not config.nesterov else config.name
    try:
        return create_optimizer_v2(groups, opt=name, lr=config.lr, momentum=config.momentum, **params)
    except Exception as error:
        # Optimizers check their arguments by errors of many classes; some need packages, or a GPU.
        raise ConfigError(
            f"train.optimizer: {config.name} can't be created with {config.params or 'these values'} "
            f"({type(error).__name__}: {on_one_line(error)})"
        ) from None


def _muon_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable weights of dense convolutions and linear layers, without those of the classifier."""
    head, found = classifier_names(model), {}
    for prefix, module in model.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        is_dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if is_dense and module.weight.requires_grad and name not in head:
            found[name] = module.weight
    return found


def _make_muon(parameters: list[nn.Parameter], config: MuonConfig) -> Muon:
    muon = NormalizedMuon if config.normalize_filters else Muon
    return muon(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=True,
        ns_steps=config.ns_steps,
        ns_coefficients=config.ns_coefficients,
        adjust_lr_fn=None,
    )


def _role(name: str, parameter: nn.Parameter, head: frozenset[str]) -> str:
    if name in head:
        return "head"
    if parameter.ndim == 1 and name.endswith("bias") and ("norm" in name or "bn" in name or name.startswith("stem.")):
        return "norm_bias"
    return "rest"
