import numpy as np
import pytest
import torch
from torch import nn

from pipeline.learning.predict import predict, weighted_views

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, size=(23, 32, 32, 3), dtype=np.uint8)


class Probe(nn.Module):
    """Logits that tell the corner pixels of what the net saw."""

    def forward(self, x):
        return torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1], x[:, 0, -1, 0], x[:, 0, -1, -1]], 1)


@pytest.mark.parametrize(("views", "num"), [("identity", 1), ("mirror", 2), ("mirror_shift", 6)])
def test_views_and_their_weights(views, num):
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).float()
    found = weighted_views(images, views)

    assert len(found) == num
    assert sum(weight for weight, _ in found) == pytest.approx(1)
    assert all(view.shape == images.shape for _, view in found)
    assert torch.equal(found[0][1], images)
    if num > 1:
        assert torch.equal(found[1][1], images.flip(-1))
    if num == 6:
        assert [weight for weight, _ in found] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
        assert torch.equal(found[2][1][..., 1:, 1:], images[..., :-1, :-1])
        assert torch.equal(found[4][1][..., :-1, :-1], images[..., 1:, 1:])
        assert torch.equal(found[3][1], found[2][1].flip(-1))


def test_logits_are_averaged_over_the_views():
    one, two = (predict(Probe(), IMAGES, views=v, batch_size=7, device=CPU) for v in ("identity", "mirror"))
    logits = np.log(one)
    mirrored = (logits + logits[:, [1, 0, 3, 2]]) / 2
    expected = np.exp(mirrored) / np.exp(mirrored).sum(1, keepdims=True)

    assert np.allclose(two, expected, atol=1e-6)


@pytest.mark.parametrize("views", ["identity", "mirror", "mirror_shift"])
def test_the_size_of_a_batch_does_not_matter(views):
    whole, parts = (predict(Probe(), IMAGES, views=views, batch_size=size, device=CPU) for size in (23, 5))

    assert np.allclose(whole, parts, atol=1e-6)
    assert whole.shape == (23, 4)
    assert whole.dtype == np.float32
    assert np.allclose(whole.sum(1), 1, atol=1e-6)


def test_a_prediction_leaves_the_net_in_evaluation_mode_and_counts():
    net, heard = Probe().train(), []
    predict(net, IMAGES, views="identity", batch_size=10, device=CPU, on_images=lambda *pair: heard.append(pair))

    assert not net.training
    assert heard == [(10, 23), (20, 23), (23, 23)]
