import numpy as np

from pipeline.learning.label_issues import find_label_issues_


def test_labels_that_were_changed_are_found():
    rng = np.random.default_rng(0)
    true = rng.integers(10, size=1000)
    probabilities = np.full((1000, 10), 0.01, np.float32)
    probabilities[np.arange(1000), true] = 0.91
    given, changed = true.copy(), np.arange(0, 1000, 50)
    given[changed] = (true[changed] + 1) % 10

    assert sorted(find_label_issues_(probabilities, given)) == changed.tolist()


def test_without_doubt_none_is_named():
    classes = np.arange(100) % 10

    assert (
        len(
            find_label_issues_(
                np.full((100, 10), 0.02, np.float32) + 0.8 * np.eye(10, dtype=np.float32)[classes], classes
            )
        )
        == 0
    )
