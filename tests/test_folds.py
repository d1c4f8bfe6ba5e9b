import numpy as np
import pytest

from pipeline.task import CLASS_NAMES
from pipeline.demo.images import draw_image
from pipeline.errors import InputError
from pipeline.learning.duplicates import count_duplicates, find_groups
from pipeline.learning.folds import make_folds

CLASSES = np.repeat(np.arange(10), 30)
ALONE = np.arange(300)


def test_every_class_is_spread_evenly():
    folds = make_folds(CLASSES, ALONE, num_folds=5, seed=1, class_names=CLASS_NAMES)

    assert np.array_equal(np.unique(folds), np.arange(5))
    for kind in range(10):
        assert np.bincount(folds[kind == CLASSES]).tolist() == [6] * 5


def test_the_seed_makes_the_folds():
    one, same, other = (
        make_folds(CLASSES, ALONE, num_folds=3, seed=seed, class_names=CLASS_NAMES) for seed in (1, 1, 2)
    )

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_group_is_never_parted():
    groups = ALONE.copy()
    groups[[3, 100, 250]] = 3
    groups[40:45] = 40
    folds = make_folds(CLASSES, groups, num_folds=5, seed=1, class_names=CLASS_NAMES)

    for group in (3, 40):
        assert len(set(folds[groups == group])) == 1
    assert np.bincount(folds).min() > 50


def test_too_few_images_of_a_class_are_told():
    classes = np.array([0] * 10 + [4] * 2 + [9] * 10)
    with pytest.raises(
        InputError, match=r"the class deer has 2 different images, expected at least one for each of 3 folds"
    ):
        make_folds(classes, np.arange(22), num_folds=3, seed=0, class_names=CLASS_NAMES)


def test_a_class_of_duplicates_is_too_few_as_well():
    classes = np.array([0] * 10 + [1] * 10)
    groups = np.array([*range(10), *[10] * 10])
    with pytest.raises(InputError, match=r"the class automobile has 1 different images"):
        make_folds(classes, groups, num_folds=2, seed=0, class_names=CLASS_NAMES)


@pytest.fixture(scope="module")
def pictures():
    return np.stack([draw_image(i % 10, np.random.default_rng((3, i))) for i in range(60)])


def shifted(image):
    return np.pad(image, ((2, 0), (1, 0), (0, 0)), mode="edge")[:32, :32]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image[:, ::-1],
        shifted,
        lambda image: np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8),
        lambda image: shifted(image[:, ::-1]),
    ],
    ids=["copy", "mirrored", "shifted", "lighter", "mirrored and shifted"],
)
def test_near_duplicates_are_found_and_others_are_not(pictures, change):
    images = np.concatenate([pictures, [change(pictures[17])], [change(pictures[8])]])
    groups = find_groups(images)

    assert groups[60] == groups[17]
    assert groups[61] == groups[8]
    assert count_duplicates(groups) == (2, 4)


def test_flat_images_are_no_duplicates(pictures):
    images = np.concatenate([pictures, np.full((2, 32, 32, 3), 200, np.uint8)])

    assert count_duplicates(find_groups(images)) == (0, 0)
