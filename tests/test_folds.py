import cv2
import numpy as np
import pytest
from conftest import CONFIG

from pipeline.demo.images import draw_image
from pipeline.errors import InputError
from pipeline.learning.duplicates import count_duplicates, find_groups
from pipeline.learning.folds import make_folds
from pipeline.run_context import open_context, prepare_run
from pipeline.task import CIFAR10, Labels

LABELS = np.repeat(np.arange(10), 30)
NO_DUPLICATES = np.arange(300)
CLASS_NAMES = CIFAR10.class_names


def test_folds_are_stratified():
    folds = make_folds(LABELS, NO_DUPLICATES, num_folds=5, seed=1, class_names=CLASS_NAMES)

    assert np.array_equal(np.unique(folds), np.arange(5))
    for label in range(10):
        assert np.bincount(folds[label == LABELS]).tolist() == [6] * 5


def test_folds_are_a_pure_function_of_the_seed():
    one, same, other = (
        make_folds(LABELS, NO_DUPLICATES, num_folds=3, seed=seed, class_names=CLASS_NAMES) for seed in (1, 1, 2)
    )

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_group_stays_in_one_fold():
    groups = NO_DUPLICATES.copy()
    groups[[3, 100, 250]] = 3
    groups[40:45] = 40
    folds = make_folds(LABELS, groups, num_folds=5, seed=1, class_names=CLASS_NAMES)

    for group in (3, 40):
        assert len(set(folds[groups == group])) == 1
    assert np.bincount(folds).min() > 50


def test_class_with_too_few_images_is_rejected():
    labels = np.array([0] * 10 + [4] * 2 + [9] * 10)
    with pytest.raises(
        InputError, match=r"the class deer has 2 different images, expected at least one for each of 3 folds"
    ):
        make_folds(labels, np.arange(22), num_folds=3, seed=0, class_names=CLASS_NAMES)


def test_duplicates_count_as_one_image_of_a_class():
    labels = np.array([0] * 10 + [1] * 10)
    groups = np.array([*range(10), *[10] * 10])
    with pytest.raises(InputError, match=r"the class automobile has 1 different images"):
        make_folds(labels, groups, num_folds=2, seed=0, class_names=CLASS_NAMES)


@pytest.fixture(scope="module")
def images():
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
    ids=["copy", "flipped", "shifted", "lighter", "flipped and shifted"],
)
def test_only_near_duplicates_are_grouped(images, change):
    groups = find_groups(np.concatenate([images, [change(images[17])], [change(images[8])]]))

    assert groups[60] == groups[17]
    assert groups[61] == groups[8]
    assert count_duplicates(groups) == (2, 4)


def test_flat_images_are_not_duplicates(images):
    flat = np.full((2, 32, 32, 3), 200, np.uint8)

    assert count_duplicates(find_groups(np.concatenate([images, flat]))) == (0, 0)


@pytest.mark.parametrize("size", [24, 48])
def test_near_duplicates_are_found_at_any_image_size(images, size):
    resized = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])
    groups = find_groups(np.concatenate([resized, resized[17:18, :, ::-1]]))

    assert groups[60] == groups[17]
    assert count_duplicates(groups) == (1, 2)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            [3, 5],
            r"the label airplane or automobile or bird or deer or frog or horse or ship or truck, expected images of",
        ),
        (
            range(9),
            r"no training image has the label truck, expected images of all 10 classes, at least one for each of 2",
        ),
        (range(1, 10), r"no training image has the label airplane, .*; add the missing images and labels to the input"),
    ],
)
def test_class_without_images_is_rejected(classes, message):
    labels = np.repeat(list(classes), 20)
    with pytest.raises(InputError, match=message):
        make_folds(labels, np.arange(len(labels)), num_folds=2, seed=0, class_names=CLASS_NAMES)


def test_single_image_of_a_class_needs_more_images_and_not_fewer_folds():
    labels = np.append(np.repeat(np.arange(9), 20), 9)
    with pytest.raises(InputError, match=r"the class truck has 1 different images, .* of 2 folds; add images$"):
        make_folds(labels, np.arange(181), num_folds=2, seed=0, class_names=CLASS_NAMES)


def test_group_counts_for_every_class_in_it():
    """The first image of each group of automobiles is an airplane."""
    labels = np.array([0, 1] * 6 + list(np.repeat(np.arange(2, 10), 4)))
    groups = np.concatenate([np.repeat(np.arange(6), 2), np.arange(6, 38)])
    folds = make_folds(labels, groups, num_folds=3, seed=0, class_names=CLASS_NAMES)

    assert set(folds[labels == 1]) == {0, 1, 2}


def test_class_without_images_leaves_no_run_behind(zip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    options = {
        "config_path": tmp_path / "tiny.yaml",
        "input_dir": zip_folder,
        "overrides": [f"images.cache_dir={tmp_path}"],
    }
    context = open_context(CIFAR10, **options, will_train=False)
    context.__dict__["labels"] = Labels(context.labels.ids, context.labels.labels.clip(max=8))
    with pytest.raises(InputError, match="no training image has the label truck"):
        prepare_run(context)
    assert not context.run.exists

    completed = open_context(CIFAR10, **options, will_train=False)
    prepare_run(completed)
    assert completed.run.exists
    assert np.array_equal(completed.run.folds().folds, completed.fold_table.folds)
