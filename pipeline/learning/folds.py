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

    Takes some seconds for 50,000 images. Raises InputError for classes without images, and for a class with fewer
    groups than folds.
    """
    # A group counts once for every class in it.
    counts = np.bincount(np.unique(np.stack([labels, groups]), axis=1)[0], minlength=len(class_names))
    rarest = int(np.where(counts > 0, counts, len(labels)).argmin())
    if 0 < counts[rarest] < num_folds:
        remedy = "set folds.num_folds lower, or add images" if counts[rarest] > 1 else "add images"
        raise InputError(
            f"the class {class_names[rarest]} has {counts[rarest]} different images, expected at least one for each "
            f"of {num_folds} folds; {remedy}"
        )
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise InputError(
            f"no training image has the label {' or '.join(empty)}, expected images of all {len(class_names)} classes, "
            f"at least one for each of {num_folds} folds; add the missing images and labels to the input"
        )
    folds = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for fold, (_, validation) in enumerate(splitter.split(labels, labels, groups)):
        folds[validation] = fold
    return folds
