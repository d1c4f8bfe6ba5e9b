import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from pipeline.demo.dataset import make_synthetic_dataset, draw_once
from pipeline.task import CLASS_NAMES, ZIP_NAME
from pipeline.demo.images import draw_image
from pipeline.data.source import find_source


def test_the_same_seed_draws_the_same_pictures(tmp_path):
    drawn = []
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        make_synthetic_dataset(tmp_path / name, num_train=30, num_test=10, seed=seed)
        source = find_source(tmp_path / name)
        drawn.append([*source.read("train"), *source.read("test"), source.labels().checksum()])

    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("kind", range(10), ids=CLASS_NAMES)
def test_pictures_of_a_class_differ(kind):
    one, other = (draw_image(kind, np.random.default_rng(seed)) for seed in (1, 2))

    assert one.shape == other.shape == (32, 32, 3)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_junk_has_no_label(tmp_path):
    labels = make_synthetic_dataset(tmp_path, num_train=10, num_test=100)

    assert 50 < len(labels.ids) < 95
    assert labels.ids.max() <= 100


def test_the_demos_competition_is_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.demo.dataset.DEMO_TRAIN", 20)
    monkeypatch.setattr("pipeline.demo.dataset.DEMO_TEST", 12)
    folder, labels = draw_once(tmp_path)
    stamp = (folder / ZIP_NAME).stat().st_mtime_ns

    again, same = draw_once(tmp_path)

    assert again == folder
    assert (folder / ZIP_NAME).stat().st_mtime_ns == stamp
    assert np.array_equal(labels.ids, same.ids)
    assert np.array_equal(labels.classes, same.classes)


def test_a_linear_model_on_the_pixels_is_far_from_solving_it():
    """The demo's net reaches more than 0.9 (test_end_to_end)."""
    images = np.stack([draw_image(i % 10, np.random.default_rng((9, i))) for i in range(1500)])
    pixels, classes = images.reshape(len(images), -1) / 255, np.arange(1500) % 10

    model = RidgeClassifier(alpha=100).fit(pixels[:1000], classes[:1000])

    assert model.score(pixels[1000:], classes[1000:]) < 0.6
