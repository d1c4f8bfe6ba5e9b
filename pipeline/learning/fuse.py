"""Batch norms folded into the convolutions before them, for inference with models of timm."""

from collections import Counter
from typing import Any

import torch.fx
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Exact types: a subclass may compute its weight in each forward pass (weight standardisation).
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fuse_batch_norms(model: nn.Module) -> None:
    """Fold batch norms into convolutions whose output they alone read; the model is in evaluation mode.

    Exact up to rounding. Which module reads what is found by `torch.fx`; a model whose forward pass it can't trace, as
    it depends on values, stays as it is.
    """
    if not any(type(module) in NORMS for module in model.modules()):
        return
    try:
        graph = _Tracer().trace(model)
    except Exception:
        # A forward pass that is run with symbols instead of tensors fails by errors of any class.
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        pair = _pair(node)
        if pair is None or any(calls[name] > 1 or name in read for name in pair):
            continue
        convolution, norm = (model.get_submodule(name) for name in pair)
        if type(convolution) in CONVOLUTIONS and type(norm) in NORMS and _fold(convolution, norm):
            model.set_submodule(pair[1], _without_norm(norm))


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def _pair(node: torch.fx.Node) -> tuple[str, str] | None:
    """Return the names of two modules of which the second alone reads the output of the first."""
    source = node.args[0] if node.op == "call_module" and node.args else None
    if isinstance(source, torch.fx.Node) and source.op == "call_module" and len(source.users) == 1:
        return str(source.target), str(node.target)
    return None


def _fold(convolution: Any, norm: Any) -> bool:
    if norm.running_mean is None:
        return False
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return True


def _without_norm(norm: Any) -> nn.Module:
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
