import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.learning.inputs import InputSpec
from pipeline.task import CIFAR10

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 32, 32, 3), dtype=np.uint8)
SPEC = InputSpec.for_task(CIFAR10)


def normalised(images):
    """Return [batch, 3, height, width], in double precision and by plain broadcasting."""
    return ((images / 255 - np.array(CIFAR10.mean)) / np.array(CIFAR10.std)).transpose(0, 3, 1, 2)


def test_input_of_a_task_has_its_size_mean_and_std():
    assert InputSpec(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "bilinear") == SPEC


def test_images_are_normalised_per_channel():
    inputs = SPEC.to_input(torch.from_numpy(IMAGES), CPU)

    assert inputs.shape == (6, 3, 32, 32)
    assert inputs.dtype == torch.float32
    assert np.allclose(inputs.numpy(), normalised(IMAGES), atol=1e-5)


@pytest.mark.parametrize("size", [32, 24])
def test_inputs_are_channels_last(size):
    inputs = SPEC.at_size(size).to_input(torch.from_numpy(IMAGES), CPU)

    assert inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [24, 48])
def test_resize_equals_interpolation_with_antialiasing(interpolation, size):
    spec = InputSpec(size, CIFAR10.mean, CIFAR10.std, interpolation)
    inputs = spec.to_input(torch.from_numpy(IMAGES), CPU)
    expected = F.interpolate(
        torch.from_numpy(normalised(IMAGES)).float(), (size, size), mode=interpolation, antialias=True
    )
    aliased = F.interpolate(torch.from_numpy(normalised(IMAGES)).float(), (size, size), mode=interpolation)

    assert inputs.shape == (6, 3, size, size)
    assert torch.allclose(inputs, expected, atol=1e-5)
    assert torch.allclose(inputs, aliased, atol=0.1) == (size > 32 and interpolation == "bilinear")


def test_images_at_full_size_are_not_resampled(monkeypatch):
    monkeypatch.setattr(F, "interpolate", lambda *_, **__: pytest.fail("no resize is needed"))

    assert SPEC.to_input(torch.from_numpy(IMAGES), CPU).shape == (6, 3, 32, 32)


def test_to_images_is_the_inverse_of_to_input():
    images = SPEC.to_images(SPEC.to_input(torch.from_numpy(IMAGES), CPU))

    assert images.dtype == np.uint8
    assert np.array_equal(images, IMAGES)


def test_to_images_clips_values_outside_the_pixel_range():
    images = SPEC.to_images(torch.stack([torch.full((3, 4, 4), -9.0), torch.full((3, 4, 4), 9.0)]))

    assert images[0].max() == 0
    assert images[1].min() == 255


def test_at_size_changes_only_the_size():
    spec = InputSpec(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")

    assert spec.at_size(20) == InputSpec(20, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    assert spec.size == 32
