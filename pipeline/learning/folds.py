"""Labels and near-duplicate groups of the training images -> their folds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from pipeline.errors import InputError


def make_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, num_folds: int, seed: int, class_names: Sequence[str]
) -> NDArray[np.int64]:
    """Return the validation fold [N] of each image, stratified by label; a group stays in one fold.

    StratifiedKFold splits the groups by the label of their first image. Nearly all have one image: with 300 pairs in
    50,000 images, a fold's count of a class is within 1 % of the mean.

    Raises InputError for a class with fewer groups than folds.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    counts = np.bincount(labels[first])
    rarest = int(np.where(counts > 0, counts, len(labels)).argmin())
    if counts[rarest] < num_folds:
        raise InputError(
            f"the class {class_names[rarest]} has {counts[rarest]} different images, expected at least one for each "
            f"of {num_folds} folds; set folds.num_folds lower, or add images"
        )
    fold_of_group = np.empty(len(first), np.int64)
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, validation) in enumerate(splitter.split(first, labels[first])):
        fold_of_group[validation] = fold
    return fold_of_group[group_of]
