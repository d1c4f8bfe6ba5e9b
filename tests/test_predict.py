import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config import ModelConfig
from pipeline.learning.dataset import normalize
from pipeline.learning.device import Machine
from pipeline.learning.models import ShiftNorm, create_model
from pipeline.learning.predict import for_inference, predict, predict_logits, tta_views

IMAGES = np.random.default_rng(0).integers(0, 256, size=(23, 32, 32, 3), dtype=np.uint8)


class Probe(nn.Module):
    """Logits that tell the corner pixels of what the net saw."""

    def forward(self, x):
        return torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1], x[:, 0, -1, 0], x[:, 0, -1, -1]], 1)


def trained_net(depth):
    """A net whose norms have seen something."""
    torch.manual_seed(0)
    model = create_model(ModelConfig(name="airbench94", params={"widths": [8, 16, 16], "depth": depth}))
    for norm in (module for module in model.modules() if isinstance(module, ShiftNorm)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.2, 4)
        nn.init.normal_(norm.bias)
    return model


@pytest.mark.parametrize(("name", "num"), [("identity", 1), ("mirror", 2), ("mirror_shift", 6)])
def test_views_and_their_weights(name, num):
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).float()
    views = tta_views(name)
    found = [view.of(images) for view in views]

    assert len(found) == num
    assert sum(view.weight for view in views) == pytest.approx(1)
    assert all(view.shape == images.shape for view in found)
    assert torch.equal(found[0], images)
    if num > 1:
        assert torch.equal(found[1], images.flip(-1))
    if num == 6:
        assert [view.weight for view in views] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
        assert torch.equal(found[2][..., 1:, 1:], images[..., :-1, :-1])
        assert torch.equal(found[4][..., :-1, :-1], images[..., 1:, 1:])
        assert torch.equal(found[3], found[2].flip(-1))


def test_logits_are_averaged_over_the_views():
    one, two = (predict(Probe(), IMAGES, views, Machine(predict_batch=7)) for views in ("identity", "mirror"))
    logits = np.log(one)
    mirrored = (logits + logits[:, [1, 0, 3, 2]]) / 2
    expected = np.exp(mirrored) / np.exp(mirrored).sum(1, keepdims=True)

    assert np.allclose(two, expected, atol=1e-6)


@pytest.mark.parametrize("views", ["identity", "mirror", "mirror_shift"])
def test_the_size_of_a_batch_does_not_matter(views):
    whole, parts = (predict(Probe(), IMAGES, views, Machine(predict_batch=size)) for size in (23, 5))

    assert np.allclose(whole, parts, atol=1e-6)
    assert whole.shape == (23, 4)
    assert whole.dtype == np.float32
    assert np.allclose(whole.sum(1), 1, atol=1e-6)


def test_a_prediction_leaves_the_net_alone_and_counts():
    net, heard = trained_net(2).train(), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predict(net, IMAGES, "identity", Machine(predict_batch=10), on_images=lambda *pair: heard.append(pair))

    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert heard == [(10, 23), (20, 23), (23, 23)]


@pytest.mark.parametrize("depth", [2, 3])
def test_folded_norms_change_nothing_but_the_rounding(depth):
    model = trained_net(depth)
    folded = for_inference(model, Machine())
    with torch.inference_mode():
        expected = model.eval()(normalize(torch.from_numpy(IMAGES), torch.device("cpu"))).numpy()
    found = predict_logits(folded, IMAGES, tta_views("identity"), Machine())

    assert not any(isinstance(module, ShiftNorm) for module in folded.modules())
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_net_predicts_the_same_and_is_compiled_once():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    machine, model = Machine(predict_batch=10), trained_net(2)
    eager, compiled = (predict(model, IMAGES, "mirror", replace(machine, compile=on)) for on in (False, True))

    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert np.allclose(eager, compiled, atol=1e-5)
