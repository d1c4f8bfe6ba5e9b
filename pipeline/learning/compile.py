"""torch.compile, as training and prediction use it."""

import torch
from torch import nn

MAX_GRAPHS = 64  # of all models in a process: one per member, image size and phase of the training


def compile_model(model: nn.Module) -> None:
    """Compile a model in place, once per shape of its input.

    By default torch compiles from the second shape on for any shape, which gives slower kernels, and after eight graphs
    it compiles no more.
    """
    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    model.compile(dynamic=False)
