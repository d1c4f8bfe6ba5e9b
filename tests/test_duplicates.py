"""Near-duplicate groups: what they are, and that their search takes time in proportion to the number of images."""

import cv2
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.demo.images import draw_image
from pipeline.learning import duplicates
from pipeline.learning.duplicates import count_duplicates, find_groups

PHOTOGRAPHS = np.stack([draw_image(i % 10, np.random.default_rng((7, i))) for i in range(40)])


def noisy(images, sigma, seed=0):
    return np.clip(images + np.random.default_rng(seed).normal(0, sigma, images.shape), 0, 255).astype(np.uint8)


def homogeneous(num_images, seed=0):
    """Return images whose thumbnails are all correlated, and which are all different."""
    smooth = cv2.GaussianBlur(PHOTOGRAPHS[1], (0, 0), 3)
    return noisy(np.repeat(smooth[None], num_images, axis=0), 40, seed)


@pytest.fixture
def comparisons(monkeypatch):
    """Count the comparisons of images."""
    calls, is_same = [], duplicates._is_same
    monkeypatch.setattr(duplicates, "_is_same", lambda *arguments: calls.append(1) or is_same(*arguments))
    return calls


def groups_of_all_pairs(images):
    """Compare every pair whose thumbnails are correlated: the definition of the groups."""
    shape = (duplicates.THUMB,) * 2
    small = np.stack([cv2.resize(image, shape, interpolation=cv2.INTER_AREA) for image in images])
    thumbs, flipped = duplicates._unit_vectors(small), duplicates._unit_vectors(small[:, :, ::-1])
    pairs = [
        (one, other)
        for is_flipped, others in ((False, thumbs), (True, flipped))
        for one, other in zip(*np.nonzero(np.triu(thumbs @ others.T > duplicates.CANDIDATE, 1)), strict=True)
        if duplicates._is_same(images[one], images[other], is_flipped)
    ]
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(one)), (one, other)), shape=(len(images), len(images)))
    return connected_components(links, directed=False)[1]


def mixed_images():
    """Return photographs with chains of shifted, flipped, noisy and identical copies of them, in random order."""
    shifted = np.roll(PHOTOGRAPHS[:8], 2, axis=1)
    copies = [
        PHOTOGRAPHS,
        shifted,
        np.roll(shifted, 2, axis=2),
        PHOTOGRAPHS[4:12, :, ::-1],
        noisy(PHOTOGRAPHS[10:30], 6),
        PHOTOGRAPHS[20:26],
        PHOTOGRAPHS[20:26],
        homogeneous(30),
        np.zeros((3, 32, 32, 3), np.uint8),
    ]
    images = np.concatenate(copies)
    return images[np.random.default_rng(1).permutation(len(images))]


@pytest.mark.parametrize("block", [16, 512])
def test_groups_are_those_of_all_pairs(block, monkeypatch):
    images = mixed_images()
    monkeypatch.setattr(duplicates, "BLOCK", block)
    groups = find_groups(images)

    assert np.array_equal(groups, groups_of_all_pairs(images))
    assert count_duplicates(groups)[0] > 20


def test_group_numbers_rise_with_the_first_image():
    groups = find_groups(mixed_images())
    first = np.unique(groups, return_index=True)[1]

    assert np.array_equal(first, np.sort(first))
    assert np.array_equal(np.unique(groups), np.arange(groups.max() + 1))


def test_thousands_of_look_alikes_are_compared_once_each(comparisons):
    images = np.concatenate([noisy(np.repeat(PHOTOGRAPHS[k : k + 1], 700, axis=0), 3, k) for k in range(3)])
    groups = find_groups(images[np.random.default_rng(2).permutation(len(images))])

    assert count_duplicates(groups) == (3, 2100)
    assert len(comparisons) < 2 * len(images)


def test_identical_images_are_not_compared(comparisons):
    groups = find_groups(np.repeat(PHOTOGRAPHS[:2], 1500, axis=0))

    assert count_duplicates(groups) == (2, 3000)
    assert len(comparisons) <= 2


def test_comparisons_of_a_homogeneous_data_set_are_limited(comparisons):
    images = homogeneous(500)
    images[400:] = noisy(images[:100], 3)
    groups = find_groups(images)

    assert count_duplicates(groups) == (100, 200)
    assert 20 * len(images) < len(comparisons) < (duplicates.MEAN_MISSES + 2) * len(images) + duplicates.MAX_MISSES


def test_flat_images_are_not_duplicates_in_any_number(comparisons):
    assert count_duplicates(find_groups(np.full((1000, 32, 32, 3), 90, np.uint8))) == (0, 0)
    assert not comparisons
