"""Out-of-fold probabilities -> label issues: training images with a probably wrong label.

The only file that imports cleanlab.
"""

import numpy as np
from cleanlab.filter import find_label_issues as find_with_cleanlab
from numpy.typing import NDArray


def find_label_issues(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows with a probably wrong label, least probable label first.

    `probabilities` [N, classes] must be out of fold, `labels` are [N]. Source: confident learning (Northcutt et al.
    2021), whose threshold for a class is the models' mean confidence in it.
    """
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    rows = find_with_cleanlab(labels, exact, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(rows, np.int64)
