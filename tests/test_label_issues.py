import numpy as np

from pipeline.learning.label_issues import find_label_issues


def test_changed_labels_are_found():
    rng = np.random.default_rng(0)
    true_labels = rng.integers(10, size=1000)
    probabilities = np.full((1000, 10), 0.01, np.float32)
    probabilities[np.arange(1000), true_labels] = 0.91
    labels, changed = true_labels.copy(), np.arange(0, 1000, 50)
    labels[changed] = (true_labels[changed] + 1) % 10

    assert sorted(find_label_issues(probabilities, labels)) == changed.tolist()


def test_confident_correct_predictions_give_no_issues():
    labels = np.arange(100) % 10
    probabilities = np.full((100, 10), 0.02, np.float32) + 0.8 * np.eye(10, dtype=np.float32)[labels]

    assert len(find_label_issues(probabilities, labels)) == 0
