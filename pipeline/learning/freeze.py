"""Which parameters of a model are trained, and which batch norms keep their statistics."""

from typing import Any

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ConfigError
from pipeline.member_config import FreezeConfig


def layers_of(model: Any, key: str, *, coarse: bool) -> dict[str, int]:
    """Return the number of the layer of each parameter, the stem 0 and the head the last; `coarse`: of the stage.

    Raises ConfigError, with the key that needs it, for a model that does not define its layers.
    """
    if not hasattr(model, "group_matcher"):
        raise ConfigError(
            f"{key}: {type(model).__name__} does not define its layers; leave it out, or use another model"
        )
    return group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)


class Freezer:
    """Freezes parts of a model, in each phase of a training."""

    def __init__(self, model: nn.Module, config: FreezeConfig, head: frozenset[str]) -> None:
        """`head` are the names of the classifier's parameters.

        Raises ConfigError if the model has no stages, or nothing would be trained.
        """
        self._model, self._config, self._head = model, config, head
        self._is_active = config != FreezeConfig()
        self._trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        stages = layers_of(model, "train.freeze.num_stages", coarse=True) if config.num_stages else {}
        self._frozen = {name for name, stage in stages.items() if stage < config.num_stages}
        if config.num_stages and not self._trainable - self._frozen:
            raise ConfigError(
                f"train.freeze.num_stages: {config.num_stages} freeze the whole model, which has "
                f"{max(stages.values()) + 1} stages with the head"
            )
        if config.head_only_epochs and not head:
            raise ConfigError("train.freeze.head_only_epochs: the model has no classifier of its own; set it to 0")

    def apply(self, *, is_head_only: bool) -> None:
        """Freeze what a phase does not train; the model is in training mode."""
        if not self._is_active:
            return
        for name, parameter in self._model.named_parameters():
            is_frozen = name in self._frozen or (is_head_only and name not in self._head)
            parameter.requires_grad_(name in self._trainable and not is_frozen)
        for module in self._model.modules():
            if isinstance(module, _BatchNorm) and (self._config.batch_norms or _is_frozen(module)):
                module.eval()


def _is_frozen(norm: nn.Module) -> bool:
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
