"""Classes and groups of the training images -> the fold of each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from pipeline.errors import InputError


def make_folds(
    classes: NDArray[np.int64], groups: NDArray[np.int64], *, num_folds: int, seed: int, class_names: Sequence[str]
) -> NDArray[np.int64]:
    """Return the fold [N] in which each image is held out; a group stays in one fold.

    Each class is spread evenly. StratifiedKFold splits the groups by their first image: nearly all have one image, so
    this is as even as StratifiedGroupKFold and takes no time (that took 7 s for 50,000 groups). Raises InputError for
    a class with fewer groups than folds.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    counts = np.bincount(classes[first])
    rare = int(np.where(counts > 0, counts, len(classes)).argmin())
    if counts[rare] < num_folds:
        raise InputError(
            f"the class {class_names[rare]} has {counts[rare]} different images, expected at least one for each of "
            f"{num_folds} folds; set folds.num_folds lower, or give more images"
        )
    fold_of_group = np.empty(len(first), np.int64)
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(first, classes[first])):
        fold_of_group[held_out] = fold
    return fold_of_group[group_of]
