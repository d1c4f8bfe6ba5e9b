import multiprocessing

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, TrainingError
from pipeline.learning.augment import ALLOWED, Augmentation
from pipeline.learning.dataset import AugmentedImages, EpochBatchSampler, TrainLoader
from pipeline.learning.inputs import InputSpec
from pipeline.member_config import AugmentStep
from pipeline.task import CIFAR10

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
LABELS = np.arange(64) % 10
SHAPE = IMAGES.shape[1:]


def batches(num_workers, epoch, seed=3):
    loader = TrainLoader(AugmentedImages(IMAGES, LABELS, STEPS, seed), 16, seed, num_workers)
    return [(images.numpy().copy(), labels.numpy().copy()) for images, labels in loader.epoch(epoch)]


def test_augmentation_is_a_pure_function_of_images_and_seed():
    augmentation = Augmentation(STEPS, SHAPE)
    first = augmentation(IMAGES, 11)
    augmentation(IMAGES[1:], 99)

    assert np.array_equal(augmentation(IMAGES, 11), first)
    assert np.array_equal(Augmentation(STEPS, SHAPE)(IMAGES, 11), first)
    assert not np.array_equal(augmentation(IMAGES, 12), first)


def test_images_of_a_batch_are_augmented_independently():
    augmented = Augmentation(STEPS, SHAPE)(np.repeat(IMAGES[:1], 64, axis=0), 11)

    # 81 positions of the crop, a flip, and a hole at one of 625 positions in every other image.
    assert len(np.unique(augmented, axis=0)) > 40


def test_without_steps_images_are_unchanged():
    assert np.array_equal(Augmentation([], SHAPE)(IMAGES, 1), IMAGES)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(num_workers):
    for epoch in (0, 3):
        for (images, labels), (same_images, same_labels) in zip(
            batches(0, epoch), batches(num_workers, epoch), strict=True
        ):
            assert np.array_equal(images, same_images)
            assert np.array_equal(labels, same_labels)
    assert multiprocessing.active_children() == []


def test_persistent_workers_receive_the_next_epoch():
    loader = TrainLoader(AugmentedImages(IMAGES, LABELS, STEPS, 3), 16, 3, 2)
    for epoch in (0, 1):
        augmented = [images.numpy().copy() for images, _ in loader.epoch(epoch)]
        assert all(np.array_equal(a, b) for a, (b, _) in zip(augmented, batches(0, epoch), strict=True))


def test_epochs_differ():
    dataset = AugmentedImages(IMAGES, LABELS, STEPS, 3)
    rows = list(range(64))
    first, second = (dataset.__getitems__([(epoch, row) for row in rows])[0].numpy() for epoch in (0, 1))
    repeated = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]

    # 81 positions of the crop, a flip, and the hole: equal images are rare.
    assert sum(repeated) <= 4


def test_alternating_flip_flips_every_other_epoch():
    dataset = AugmentedImages(IMAGES, LABELS, [], 3, alternating_flip=True)
    epochs = [dataset.__getitems__([(epoch, row) for row in range(64)])[0].numpy() for epoch in range(3)]
    flipped_first = [
        np.array_equal(augmented, image[:, ::-1]) for augmented, image in zip(epochs[0], IMAGES, strict=True)
    ]

    assert np.array_equal(epochs[1], epochs[0][:, :, ::-1])
    assert np.array_equal(epochs[2], epochs[0])
    assert 16 < sum(flipped_first) < 48


def test_each_epoch_is_a_new_permutation_of_the_images():
    sampler = EpochBatchSampler(70, 16, 1)
    orders = []
    for sampler.epoch in (0, 1):
        orders.append([row for batch in sampler for _, row in batch])

    assert len(sampler) == 4
    for order in orders:
        assert len(set(order)) == len(order) == 64
    assert orders[0] != orders[1]


def test_fewer_images_than_the_batch_size_make_one_batch():
    assert [len(batch) for batch in EpochBatchSampler(10, 512, 0)] == [10]


def test_input_is_normalised_per_channel_and_channels_last():
    grey = np.full((2, 32, 32, 3), 128, np.uint8)
    out = InputSpec.for_task(CIFAR10).to_input(torch.from_numpy(grey), torch.device("cpu"))

    assert out.shape == (2, 3, 32, 32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = [(128 / 255 - mean) / std for mean, std in zip(CIFAR10.mean, CIFAR10.std, strict=True)]
    assert out[0, :, 5, 5].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("RandomErasing", {"p": 1}, r"unknown transform 'RandomErasing', expected one of Affine"),
        ("Lambda", {"p": 1}, r"unknown transform 'Lambda', expected one of"),
        ("HorizontalFlip", {"p": 0.5, "probability": 1}, r"HorizontalFlip does not accept .*probability"),
        ("CoarseDropout", {"max_holes": 1, "p": 1}, r"CoarseDropout does not accept .*max_holes"),
        ("RandomCrop", {"height": -3, "width": 32, "p": 1}, r"RandomCrop does not accept"),
        ("HorizontalFlip", {"p": 7}, r"HorizontalFlip does not accept"),
        ("Pad", {"padding": 4, "border_mode": "mirror", "p": 1}, r"border_mode 'mirror', expected one of constant"),
        ("Pad", {"padding": 4, "p": 1}, r"Pad change 32x32 images to 40x40; end with a RandomCrop to 32x32"),
    ],
)
def test_invalid_step_is_rejected_with_the_reason(name, params, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation([AugmentStep(name=name, params=params)], SHAPE)


@pytest.mark.parametrize("name", ALLOWED)
def test_every_allowed_transform_keeps_uint8_and_shape(name):
    sizes = {"RandomCrop": {"height": 32, "width": 32}, "RandomResizedCrop": {"size": [32, 32]}, "Pad": {"padding": 0}}
    augmentation = Augmentation([AugmentStep(name=name, params={**sizes.get(name, {}), "p": 1.0})], SHAPE)
    out = augmentation(IMAGES[:3], 5)

    assert out.dtype == np.uint8
    assert out.shape == (3, 32, 32, 3)


def test_image_shape_may_be_any():
    crop = AugmentStep(name="RandomCrop", params={"height": 32, "width": 32, "p": 1.0})
    images = RNG.integers(0, 256, size=(3, 48, 48, 3), dtype=np.uint8)

    assert Augmentation([STEPS[2], STEPS[3]], (48, 48, 3))(images, 5).shape == images.shape
    with pytest.raises(ConfigError, match=r"RandomCrop change 48x48 images to 32x32; end with a RandomCrop to 48x48"):
        Augmentation([crop], (48, 48, 3))


def step(name, **params):
    return AugmentStep(name=name, params=params)


CROP = step("RandomCrop", height=32, width=32, p=1.0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [step("RandomResizedCrop", size=[24, 24], p=0.01)],
            r"change 32x32 images to 24x24 with some probability; .*if_n",
        ),
        (
            [step("ToGray", num_output_channels=1, p=0.01)],
            r"to 32x32x1 with some probability; every step must keep 3 chan",
        ),
        (
            [step("Pad", padding=4, p=1), step("RandomCrop", height=32, width=32, p=0.9)],
            r"images to 40x40 with some prob",
        ),
        (
            [step("RandomCrop", height=40, width=40, p=0.01)],
            r"augment\.0 \(RandomCrop\) fails on 32x32 .*CropSizeError: ",
        ),
        ([CROP, step("Pad", padding=-3, p=0.01), CROP], r"augment\.1 \(Pad\) fails on 32x32 images with .*padding.*-3"),
        (
            [step("Rotate", limit=90, crop_border=True, p=0.1)],
            r"Rotate change 32x32 images to 2\dx2\d with some probabil",
        ),
        (
            [step("Rotate", limit=90, crop_border=True, p=0.1), step("RandomCrop", height=28, width=28, p=1)],
            r"augment\.1 \(RandomCrop\) fails on 2\dx2\d images",
        ),
        ([step("CoarseDropout", hole_height_range=[40, 40], p=0.01)], r"augment\.0 \(CoarseDropout\) fails on 32x32"),
        ([step("RandomResizedCrop", size=[32, 32], ratio=[0, 0], p=0.01)], r"augment\.0 \(RandomResizedCrop\) fails"),
        (
            [step("Pad", padding=1000, p=0.01), CROP],
            r"augment\.0 \(Pad\) changes .* to 2032x2032, expected at most 1024",
        ),
    ],
)
def test_step_that_fails_with_any_probability_is_always_rejected(steps, message):
    with pytest.raises(ConfigError, match=message) as raised:
        Augmentation(steps, SHAPE)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "steps",
    [
        [step("RandomResizedCrop", size=[24, 24], p=0.0)],
        [step("Pad", padding=4, p=0.5), CROP],
        [step("Rotate", limit=90, crop_border=True, p=0.5), step("RandomResizedCrop", size=[32, 32], p=1)],
        [step("Rotate", limit=90, crop_border=True, p=1)] * 2 + [step("RandomResizedCrop", size=[32, 32], p=1.0)],
        [
            step("RandomResizedCrop", size=[24, 24], p=0.1),
            step("RandomCrop", height=32, width=32, pad_if_needed=True, p=1),
        ],
    ],
)
def test_steps_that_end_with_the_image_size_are_accepted(steps):
    assert Augmentation(steps, SHAPE)(IMAGES, 3).shape == IMAGES.shape


def test_advice_for_changed_sizes_works():
    crop = step("RandomCrop", height=32, width=32, pad_if_needed=True, p=1)
    for changes in (step("Pad", padding=4, p=0.5), step("RandomResizedCrop", size=[24, 24], p=0.5)):
        with pytest.raises(ConfigError, match=r"end with a RandomCrop to 32x32 with p: 1"):
            Augmentation([changes], SHAPE)
        Augmentation([changes, crop], SHAPE)


@pytest.mark.parametrize("p", [-0.1, 1.1, "0.5", None, True, [0.5]])
def test_probability_must_be_a_number_from_0_to_1(p):
    with pytest.raises(
        ConfigError, match=r"augment\.0: HorizontalFlip does not accept p: .*, expected a number from 0"
    ):
        Augmentation([step("HorizontalFlip", p=p)], SHAPE)


def test_error_of_an_argument_is_one_short_line():
    with pytest.raises(ConfigError, match=r"^augment\.0: Posterize does not accept .*must be in the range \[1, 7\]$"):
        Augmentation([step("Posterize", num_bits=0, p=1)], SHAPE)


def test_transform_that_fails_later_is_a_training_error():
    augmentation = Augmentation([CROP], SHAPE)
    with pytest.raises(TrainingError, match=r"^the augmentation of the training images failed: .*Crop"):
        augmentation(IMAGES[:, :20, :20], 1)
