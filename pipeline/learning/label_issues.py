"""Out-of-fold probabilities -> training images whose label is probably wrong. The only file that imports cleanlab."""

import numpy as np
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray


def find_label_issues_(probabilities: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of [N, classes] whose class [N] is probably wrong, the most doubtful first.

    Source: confident learning (Northcutt et al. 2021), which asks more of a class that the nets know well. The
    probabilities must come from nets that did not learn from the same image.
    """
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    found = find_label_issues(classes, exact, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(found, np.int64)
