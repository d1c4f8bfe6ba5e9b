"""Labels and near-duplicate groups of the training images -> their folds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.errors import InputError


def make_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, num_folds: int, seed: int, class_names: Sequence[str]
) -> NDArray[np.int64]:
    """Return the validation fold [N] of each image, stratified by label; a group stays in one fold.

    Takes some seconds for 50,000 images. Raises InputError for a class with fewer groups than folds.
    """
    first = np.unique(groups, return_index=True)[1]
    counts = np.bincount(labels[first])
    rarest = int(np.where(counts > 0, counts, len(labels)).argmin())
    if counts[rarest] < num_folds:
        raise InputError(
            f"the class {class_names[rarest]} has {counts[rarest]} different images, expected at least one for each "
            f"of {num_folds} folds; set folds.num_folds lower, or add images"
        )
    folds = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, validation) in enumerate(splitter.split(labels, labels, groups)):
        folds[validation] = fold
    return folds
