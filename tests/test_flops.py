import pytest

from pipeline.config import MemberConfig
from pipeline.learning.flops import prediction_flop, training_flop


def member(**train):
    return MemberConfig.model_validate({"model": {"name": "airbench94"}, "train": {"epochs": 8, **train}})


def test_airbench94_takes_what_its_authors_say():
    """0.29 PFLOP for 8 epochs of 50,000 images, with 10,000 images in six views (facts of its README)."""
    whole = training_flop(member(batch_size=2000), 50_000) + prediction_flop(member(), "mirror_shift", 10_000)

    assert whole == pytest.approx(0.29e15, rel=0.05)


def test_views_multiply_the_prediction():
    one, two, six = (prediction_flop(member(), views, 10) for views in ("identity", "mirror", "mirror_shift"))

    assert (two, six) == (2 * one, 6 * one)


def test_smaller_pictures_and_a_frozen_first_layer_take_less():
    whole = training_flop(member(), 1024)
    small = training_flop(member(progressive_resizing=[{"until": 0.5, "size": 16}]), 1024)
    frozen = training_flop(member(whiten_bias_epochs=4), 1024)

    assert 0.55 * whole < small < 0.7 * whole
    assert 0.9 * whole < frozen < whole


def test_images_that_fill_no_batch_are_not_counted():
    assert training_flop(member(batch_size=512), 1000) == training_flop(member(batch_size=512), 512)


def test_folds_are_added_up():
    both = training_flop(member(batch_size=512), 1000, 2000)

    assert both == training_flop(member(batch_size=512), 1000) + training_flop(member(batch_size=512), 2000)
