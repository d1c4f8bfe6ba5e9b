"""Images -> near-duplicate groups, kept in one fold to avoid leakage.

CIFAR-10 has near-duplicates: the same photograph shifted, recompressed or flipped (Barz and Denzler 2020, "ciFAIR").
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Constants of the method, for any image size.
THUMB = 8  # height and width of the thumbnails in pixels: small enough to compare all pairs
CANDIDATE = 0.88  # correlation of two thumbnails above which the images themselves are compared
SAME = 0.93  # correlation of the images at their best shift; on CIFAR-10 nearly all pairs above are one photograph
MAX_SHIFT = 2  # pixels
BLOCK = 1024  # thumbnails compared with all others at a time


def find_groups(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the group [N] of each image of [N, height, width, 3]; an image without a duplicate is its own group."""
    thumbs = _unit_vectors(np.stack([cv2.resize(i, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for i in images]))
    flipped = thumbs.reshape(-1, THUMB, THUMB, 3)[:, :, ::-1].reshape(len(thumbs), -1)
    pairs = []
    for start in range(0, len(images), BLOCK):
        block = thumbs[start : start + BLOCK]
        for others, is_flipped in ((thumbs, False), (flipped, True)):
            rows, columns = np.nonzero(block @ others[start:].T > CANDIDATE)
            pairs += [
                (row + start, column + start)
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
                if row < column and _is_same(images[row + start], images[column + start], is_flipped)
            ]
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(one)), (one, other)), shape=(len(images), len(images)))
    return connected_components(links, directed=False)[1].astype(np.int64)


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
