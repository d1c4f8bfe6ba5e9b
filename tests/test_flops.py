from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.learning.flops import forward_flops, prediction_flops, training_flops
from pipeline.learning.models import create_model
from pipeline.member_config import MemberConfig
from pipeline.task import CIFAR10


def member(name="airbench94", **train):
    return MemberConfig.model_validate({"model": {"name": name}, "train": {"epochs": 8, **train}})


def flops_on_cpu(config, num_images, *, backward):
    """Count with the real model and real numbers."""
    model, spec = create_model(config.model, CIFAR10)
    images = torch.randn(num_images, 3, spec.size, spec.size)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        loss = F.cross_entropy(model.train(backward)(images), torch.zeros(num_images, dtype=torch.long))
        if backward:
            loss.backward()
    return counter.get_total_flops()


def test_airbench94_has_the_published_number_of_operations():
    """0.29 PFLOP for 8 epochs of 50,000 images and 10,000 images in six TTA views (source: README of airbench)."""
    prediction = 10_000 * prediction_flops(member(), CIFAR10, "flip_translate")
    total = training_flops(member(batch_size=2000), CIFAR10, 50_000) + prediction

    assert total == pytest.approx(0.29e15, rel=0.05)


@pytest.mark.parametrize("name", ["airbench94", "tutorial_cnn"])
def test_count_on_the_meta_device_equals_a_count_on_the_cpu(name):
    config = member(name, epochs=1, batch_size=2)

    assert forward_flops(config, CIFAR10) == flops_on_cpu(config, 2, backward=False) / 2
    assert training_flops(config, CIFAR10, 2) == flops_on_cpu(config, 2, backward=True)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18"])
def test_training_takes_three_times_the_operations_of_a_forward_pass_with_depthwise_convolutions_too(name):
    """All but the gradient of the images, which the first layer does not need."""
    forward = forward_flops(member(name), CIFAR10)
    training = training_flops(member(name, epochs=1, batch_size=2), CIFAR10, 2) / 2

    assert 2.75 * forward < training < 3 * forward


def test_prediction_is_a_forward_pass_per_tta_view():
    one, two, six = (prediction_flops(member(), CIFAR10, tta) for tta in ("none", "flip", "flip_translate"))

    assert one == forward_flops(member(), CIFAR10)
    assert (two, six) == (2 * one, 6 * one)


def test_progressive_resizing_and_a_frozen_whitening_bias_save_operations():
    full = training_flops(member(), CIFAR10, 1024)
    resized = training_flops(member(progressive_resizing=[{"until": 0.5, "size": 16}]), CIFAR10, 1024)
    frozen = training_flops(member(whiten_bias_epochs=4), CIFAR10, 1024)

    assert 0.55 * full < resized < 0.7 * full
    assert 0.9 * full < frozen < full


def test_images_of_an_incomplete_batch_are_not_counted():
    config = member(batch_size=512)

    assert training_flops(config, CIFAR10, 1000) == training_flops(config, CIFAR10, 512)


def test_larger_images_of_another_task_take_more_operations():
    larger = replace(CIFAR10, image_shape=(64, 64, 3))

    assert 3.5 * forward_flops(member(), CIFAR10) < forward_flops(member(), larger)


def test_batches_of_mixed_images_are_counted_with_an_even_size():
    mixed, plain = (member(batch_size=512, mixup_alpha=alpha) for alpha in (0.2, 0.0))

    assert training_flops(mixed, CIFAR10, 133) == training_flops(plain, CIFAR10, 132)
    assert training_flops(mixed, CIFAR10, 1100) == training_flops(plain, CIFAR10, 1024)


def test_number_of_epochs_takes_no_time_to_count():
    many = member("tutorial_cnn", epochs=100_000, progressive_resizing=[], whiten_bias_epochs=40_000)

    assert training_flops(many, CIFAR10, 256) == 100_000 * training_flops(
        member("tutorial_cnn", epochs=1), CIFAR10, 256
    )
