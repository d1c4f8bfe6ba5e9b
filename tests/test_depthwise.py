"""Mixed precision of a training on a CPU."""

import copy

import timm
import torch

from pipeline.learning.depthwise import train_depthwise_in_float32


def outputs_by_kind(model):
    """Run a model in bf16 autocast; return the types of numbers that its depthwise and dense convolutions return."""
    kinds = {True: set(), False: set()}
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            is_depthwise = module.groups > 1
            module.register_forward_hook(lambda _, __, output, kind=is_depthwise: kinds[kind].add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(2, 3, 32, 32)).float().sum().backward()
    return kinds


def test_depthwise_convolutions_stay_in_float32_and_dense_ones_run_in_bf16():
    model = timm.create_model("test_efficientnet", num_classes=10)
    train_depthwise_in_float32(model)

    assert outputs_by_kind(model) == {True: {torch.float32}, False: {torch.bfloat16}}


def test_copies_of_a_model_keep_their_own_weights_and_names():
    model = timm.create_model("test_efficientnet", num_classes=10)
    names = list(model.state_dict())
    train_depthwise_in_float32(model)
    average = copy.deepcopy(model)
    with torch.no_grad():
        model.conv_stem.weight.zero_()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
    inputs = torch.rand(2, 3, 32, 32)

    assert list(model.state_dict()) == list(average.state_dict()) == names
    assert not torch.equal(average.eval()(inputs), model.eval()(inputs))
