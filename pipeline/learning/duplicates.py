"""Images -> near-duplicate groups, kept in one fold to avoid leakage.

CIFAR-10 has near-duplicates: the same photograph shifted, recompressed or flipped (Barz and Denzler 2020, "ciFAIR").
"""

import cv2
import numpy as np
from numpy.typing import NDArray

# Constants of the method, for any image size.
THUMB = 8  # height and width of the thumbnails in pixels: small enough to compare all pairs
CANDIDATE = 0.88  # correlation of two thumbnails above which the images themselves are compared
SAME = 0.93  # correlation of the images at their best shift; on CIFAR-10 nearly all pairs above are one photograph
MAX_SHIFT = 2  # pixels
BLOCK = 512  # thumbnails compared with all others at a time
# Misses (comparisons without a match) after which an image is compared with no more: in a homogeneous data set, such as
# X-rays, the thumbnails of all pairs are correlated. An image has the first number, or up to the second what earlier
# images have left of theirs. On CIFAR-10, with 2.5 on average, this changes no group.
MEAN_MISSES, MAX_MISSES = 32, 256


def find_groups(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the group [N] of each image of [N, height, width, 3]; an image without a duplicate is its own group.

    The number of comparisons grows with the number of images, not with that of similar pairs: images of one group are
    not compared again, and the others in the order of their thumbnails' similarity, up to a number of misses.
    """
    thumbs = _unit_vectors(np.stack([cv2.resize(i, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for i in images]))
    flipped = thumbs.reshape(-1, THUMB, THUMB, 3)[:, :, ::-1].reshape(len(thumbs), -1)
    groups = _Groups(images)
    groups.join_identical(np.flatnonzero(thumbs.any(axis=1)))
    for start in range(0, len(images), BLOCK):
        block = thumbs[start : start + BLOCK]
        similarities = [block @ others[start:].T for others in (thumbs, flipped)]
        candidates = [similarity > CANDIDATE for similarity in similarities]
        for candidate in candidates:
            candidate[:, : len(block)] &= np.triu(np.ones((len(block), len(block)), bool), 1)  # each pair once
        for index in np.flatnonzero(candidates[0].any(axis=1) | candidates[1].any(axis=1)).tolist():
            columns = [np.flatnonzero(candidate[index]) for candidate in candidates]
            similarity = np.concatenate([s[index, c] for s, c in zip(similarities, columns, strict=True)])
            flips = np.repeat([False, True], [len(c) for c in columns])
            groups.join_similar(start + index, start + np.concatenate(columns), flips, similarity)
    return np.unique(groups.labels, return_inverse=True)[1].astype(np.int64)


class _Groups:
    """A partition of the images [N]; the label of a group is its smallest row."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.labels = np.arange(len(images))
        self._images, self._members = images, {row: [row] for row in range(len(images))}
        self._misses_left = MAX_MISSES

    def join_identical(self, rows: NDArray[np.int64]) -> None:
        """Join those of some images that have the same bytes."""
        first: dict[bytes, int] = {}
        for row in rows.tolist():
            self._join(first.setdefault(self._images[row].tobytes(), row), row)

    def join_similar(
        self, row: int, others: NDArray[np.int64], flips: NDArray[np.bool_], similarity: NDArray[np.float32]
    ) -> None:
        """Join an image with those of other images, flipped or not, that are the same; the most similar first."""
        is_new = self.labels[others] != self.labels[row]
        others, flips, similarity = others[is_new], flips[is_new], similarity[is_new]
        self._misses_left += MEAN_MISSES
        num_misses, limit = 0, min(self._misses_left, MAX_MISSES)
        for index in np.argsort(-similarity, kind="stable").tolist():
            other = int(others[index])
            if self.labels[row] == self.labels[other]:
                continue
            if _is_same(self._images[row], self._images[other], bool(flips[index])):
                self._join(row, other)
            else:
                num_misses += 1
                if num_misses == limit:
                    break
        self._misses_left -= num_misses

    def _join(self, one: int, other: int) -> None:
        label, gone = sorted((int(self.labels[one]), int(self.labels[other])))
        if label != gone:
            members = self._members.pop(gone)
            self.labels[members] = label
            self._members[label] += members


def count_duplicates(groups: NDArray[np.int64]) -> tuple[int, int]:
    """Return the number of groups with more than one image, and of the images in them."""
    sizes = np.bincount(groups)
    return int((sizes > 1).sum()), int(sizes[sizes > 1].sum())


def _is_same(one: NDArray[np.uint8], other: NDArray[np.uint8], is_flipped: bool) -> bool:
    """Correlate the centre of one image with the other at every shift up to MAX_SHIFT."""
    centre = one[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
    searched = np.ascontiguousarray(other[:, ::-1]) if is_flipped else other
    return float(cv2.matchTemplate(searched, centre, cv2.TM_CCOEFF_NORMED).max()) > SAME


def _unit_vectors(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flatten to vectors of mean 0 and length 1, whose dot product is the correlation; flat images become 0."""
    vectors = images.reshape(len(images), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 1, lengths, np.inf)
    return vectors
