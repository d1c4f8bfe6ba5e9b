import multiprocessing

import numpy as np
import pytest
import torch

from pipeline.config import AugmentStep
from pipeline.errors import ConfigError
from pipeline.learning.augment import ALLOWED, Augmentation
from pipeline.learning.dataset import MEAN, STD, AugmentedImages, EpochBatchSampler, TrainLoader, normalize

STEPS = [
    AugmentStep(name="Pad", params={"padding": 4, "border_mode": "reflect", "p": 1.0}),
    AugmentStep(name="RandomCrop", params={"height": 32, "width": 32, "p": 1.0}),
    AugmentStep(name="HorizontalFlip", params={"p": 0.5}),
    AugmentStep(
        name="CoarseDropout",
        params={
            "num_holes_range": [1, 1],
            "hole_height_range": [8, 8],
            "hole_width_range": [8, 8],
            "fill": 0,
            "p": 0.5,
        },
    ),
]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(64, 32, 32, 3), dtype=np.uint8)
CLASSES = np.arange(64) % 10


def batches(num_workers, epoch, seed=3):
    loader = TrainLoader(AugmentedImages(IMAGES, CLASSES, STEPS, seed), 16, seed, num_workers)
    return [(images.numpy().copy(), classes.numpy().copy()) for images, classes in loader.epoch(epoch)]


def test_pixels_depend_on_images_and_seed_alone():
    augmentation = Augmentation(STEPS)
    first = augmentation(IMAGES, 11)
    augmentation(IMAGES[1:], 99)

    assert np.array_equal(augmentation(IMAGES, 11), first)
    assert np.array_equal(Augmentation(STEPS)(IMAGES, 11), first)
    assert not np.array_equal(augmentation(IMAGES, 12), first)


def test_the_images_of_a_batch_are_drawn_for_themselves():
    found = Augmentation(STEPS)(np.repeat(IMAGES[:1], 64, axis=0), 11)

    # 81 places of the crop, two faces, and a hole at one of 625 places in every other image.
    assert len(np.unique(found, axis=0)) > 40


def test_no_steps_change_nothing():
    assert np.array_equal(Augmentation([])(IMAGES, 1), IMAGES)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(num_workers):
    for epoch in (0, 3):
        for (images, classes), (same_images, same_classes) in zip(
            batches(0, epoch), batches(num_workers, epoch), strict=True
        ):
            assert np.array_equal(images, same_images)
            assert np.array_equal(classes, same_classes)
    assert multiprocessing.active_children() == []


def test_workers_that_outlive_an_epoch_hear_of_the_next():
    loader = TrainLoader(AugmentedImages(IMAGES, CLASSES, STEPS, 3), 16, 3, 2)
    for epoch in (0, 1):
        kept = [images.numpy().copy() for images, _ in loader.epoch(epoch)]
        assert all(np.array_equal(a, b) for a, (b, _) in zip(kept, batches(0, epoch), strict=True))


def test_no_epoch_repeats_another():
    dataset = AugmentedImages(IMAGES, CLASSES, STEPS, 3)
    rows = list(range(64))
    first, second = (dataset.__getitems__([(epoch, row) for row in rows])[0].numpy() for epoch in (0, 1))
    repeated = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]

    # 81 places of the crop, two faces, and the hole: a chance repetition is rare.
    assert sum(repeated) <= 4


def test_alternating_mirrors_show_both_faces_in_turn():
    dataset = AugmentedImages(IMAGES, CLASSES, [], 3, alternating_flip=True)
    epochs = [dataset.__getitems__([(epoch, row) for row in range(64)])[0].numpy() for epoch in range(3)]
    begin_mirrored = [np.array_equal(seen, image[:, ::-1]) for seen, image in zip(epochs[0], IMAGES, strict=True)]

    assert np.array_equal(epochs[1], epochs[0][:, :, ::-1])
    assert np.array_equal(epochs[2], epochs[0])
    assert 16 < sum(begin_mirrored) < 48


def test_every_image_comes_once_in_an_epoch_and_in_another_order_in_the_next():
    keys = EpochBatchSampler(70, 16, 1)
    orders = []
    for keys.epoch in (0, 1):
        orders.append([row for batch in keys for _, row in batch])

    assert len(keys) == 4
    for order in orders:
        assert len(set(order)) == len(order) == 64
    assert orders[0] != orders[1]


def test_fewer_images_than_a_batch_are_one_batch():
    assert [len(batch) for batch in EpochBatchSampler(10, 512, 0)] == [10]


def test_normalised_by_channel_and_channels_last():
    grey = np.full((2, 32, 32, 3), 128, np.uint8)
    out = normalize(torch.from_numpy(grey), torch.device("cpu"))

    assert out.shape == (2, 3, 32, 32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = [(128 / 255 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert out[0, :, 5, 5].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("RandomErasing", {"p": 1}, r"'RandomErasing' is not among Affine"),
        ("Lambda", {"p": 1}, r"'Lambda' is not among"),
        ("HorizontalFlip", {"p": 0.5, "probability": 1}, r"HorizontalFlip does not take .*probability"),
        ("CoarseDropout", {"max_holes": 1, "p": 1}, r"CoarseDropout does not take .*max_holes"),
        ("RandomCrop", {"height": -3, "width": 32, "p": 1}, r"RandomCrop does not take"),
        ("HorizontalFlip", {"p": 7}, r"HorizontalFlip does not take"),
        ("Pad", {"padding": 4, "border_mode": "mirror", "p": 1}, r"border_mode 'mirror', expected one of constant"),
        ("Pad", {"padding": 4, "p": 1}, r"turn 32x32 images into 40x40; end with a RandomCrop"),
    ],
)
def test_a_step_that_can_not_be_built_says_why(name, params, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation([AugmentStep(name=name, params=params)])


@pytest.mark.parametrize("name", ALLOWED)
def test_every_allowed_name_keeps_uint8(name):
    sizes = {"RandomCrop": {"height": 32, "width": 32}, "RandomResizedCrop": {"size": [32, 32]}, "Pad": {"padding": 0}}
    augmentation = Augmentation([AugmentStep(name=name, params={**sizes.get(name, {}), "p": 1.0})])
    out = augmentation(IMAGES[:3], 5)

    assert out.dtype == np.uint8
    assert out.shape == (3, 32, 32, 3)
