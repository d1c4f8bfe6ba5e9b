"""Images -> groups of near-duplicates, which must not be parted by the folds.

CIFAR-10 has them: the same photograph twice, shifted, recompressed or mirrored (Barz and Denzler 2020, "ciFAIR").
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THUMB = 8  # thumbnails of 8x8 pixels in 3 channels: small enough to compare all pairs
CANDIDATE = 0.88  # correlation of two thumbnails from which the images themselves are compared
SAME = 0.93  # correlation of the images at their best shift; on CIFAR-10 nearly all pairs above are one photograph
MAX_SHIFT = 2  # pixels
BLOCK = 1024


def find_groups(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the group [N] of each of the images [N, 32, 32, 3]; an image without a duplicate is alone in its group."""
    thumbs = _unit_vectors(np.stack([cv2.resize(i, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for i in images]))
    mirrored = thumbs.reshape(-1, THUMB, THUMB, 3)[:, :, ::-1].reshape(len(thumbs), -1)
    pairs = []
    for start in range(0, len(images), BLOCK):
        block = thumbs[start : start + BLOCK]
        for others, is_mirrored in ((thumbs, False), (mirrored, True)):
            rows, columns = np.nonzero(block @ others[start:].T > CANDIDATE)
            pairs += [
                (row + start, column + start)
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
                if row < column and _is_same(images[row + start], images[column + start], is_mirrored)
            ]
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(one)), (one, other)), shape=(len(images), len(images)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def count_duplicates(groups: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many groups have more than one image, and how many images they have."""
    sizes = np.bincount(groups)
    return int((sizes > 1).sum()), int(sizes[sizes > 1].sum())


def _is_same(one: NDArray[np.uint8], other: NDArray[np.uint8], is_mirrored: bool) -> bool:
    """Compare the middle of one image with the other at every small shift."""
    middle = one[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
    facing = np.ascontiguousarray(other[:, ::-1]) if is_mirrored else other
    return float(cv2.matchTemplate(facing, middle, cv2.TM_CCOEFF_NORMED).max()) > SAME


def _unit_vectors(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flatten to vectors of mean 0 and length 1, so that a product is a correlation; flat images become 0."""
    vectors = images.reshape(len(images), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 1, lengths, np.inf)
    return vectors
