import numpy as np
import torch
from torch import nn

from pipeline.learning.attribution import occlusion_maps
from pipeline.learning.device import Machine
from pipeline.learning.inputs import InputSpec
from pipeline.report.images import with_heat_map
from pipeline.task import CIFAR10

MACHINE = Machine()
IMAGES = np.random.default_rng(0).integers(150, 256, (3, 32, 32, 3)).astype(np.uint8)


class Corner(nn.Module):
    """Class 1 where the lower right quarter is bright, else class 0."""

    def forward(self, inputs):
        half = inputs.shape[-1] // 2
        brightness = inputs[..., half:, half:].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(brightness), 4 * brightness], 1)


class Constant(nn.Module):
    def forward(self, inputs):
        return torch.tensor([[1.0, 0.0]]).expand(len(inputs), -1)


def test_occlusion_map_shows_the_part_of_the_image_that_the_prediction_depends_on():
    for size in (32, 48):
        spec = InputSpec(size, CIFAR10.mean, CIFAR10.std)
        maps = occlusion_maps(Corner(), spec, IMAGES, np.array([1, 1, 0]), MACHINE)

        assert maps.shape == (3, 32, 32)
        assert (maps[:2, 18:, 18:] > 0.001).all()
        assert (maps[2, 18:, 18:] < -0.001).all()
        assert np.abs(maps[:, :12, :12]).max() < 1e-6


def test_occlusion_map_of_a_constant_prediction_is_zero():
    maps = occlusion_maps(Constant(), InputSpec.for_task(CIFAR10), IMAGES, np.array([0, 0, 1]), MACHINE)

    assert np.abs(maps).max() < 1e-6


def test_heat_map_is_red_where_the_values_are_large_and_grey_where_they_are_not_positive():
    values = np.zeros((32, 32), np.float32)
    values[:16], values[16:] = 2.0, -2.0
    red, green, blue = np.moveaxis(with_heat_map(IMAGES[0], values).astype(int), 2, 0)

    assert (red[:16] > green[:16] + 50).all()
    assert (red[16:] == green[16:]).all()
    assert (green[16:] == blue[16:]).all()


def test_heat_map_without_any_effect_is_grey():
    image = with_heat_map(IMAGES[0], np.zeros((32, 32), np.float32))

    assert (image == image[..., :1]).all()
