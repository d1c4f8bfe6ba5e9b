import csv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from pipeline.data.labels import parse_labels
from pipeline.data.source import find_source
from pipeline.demo import dataset
from pipeline.demo.dataset import demo_dataset, make_synthetic_dataset
from pipeline.demo.images import draw_distractor, draw_image
from pipeline.task import CIFAR10

MANY_CLASSES = replace(CIFAR10, class_names=tuple("abcdefghijklmnopqrstuvwxy"), image_shape=(48, 48, 3))


@pytest.mark.parametrize("damage", ["deleted", "truncated", "unknown method", "without solution"])
def test_demo_whose_files_were_lost_makes_them_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(dataset, "DEMO_TRAIN", 30)
    monkeypatch.setattr(dataset, "DEMO_TEST", 10)
    folder = demo_dataset(tmp_path, CIFAR10)
    path, first = folder / CIFAR10.zip_name, find_source(folder, CIFAR10).labels().checksum()
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "unknown method":
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") + 10] ^= 0x40
        path.write_bytes(data)
    else:
        (folder / dataset.SOLUTION_CSV).unlink()

    assert demo_dataset(tmp_path, CIFAR10) == folder
    assert find_source(folder, CIFAR10).labels().checksum() == first
    assert (folder / dataset.SOLUTION_CSV).exists()


def test_two_demos_at_once_make_the_dataset_once(tmp_path, monkeypatch):
    made, make = [], dataset.make_synthetic_dataset

    def count(folder, **options):
        made.append(1)
        return make(folder, **(options | {"num_train": 30, "num_test": 10}))

    monkeypatch.setattr(dataset, "make_synthetic_dataset", count)
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: demo_dataset(tmp_path, CIFAR10), range(3)))

    assert len(made) == 1
    assert len(set(folders)) == 1


def test_same_seed_gives_the_same_images(tmp_path):
    datasets = []
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        make_synthetic_dataset(tmp_path / name, num_train=30, num_test=10, seed=seed)
        source = find_source(tmp_path / name, CIFAR10)
        with source.read("train") as train, source.read("test") as test:
            datasets.append([*train, *test, source.labels().checksum()])

    assert datasets[0] == datasets[1] != datasets[2]


@pytest.mark.parametrize("label", range(10), ids=CIFAR10.class_names)
def test_images_of_a_class_differ(label):
    one, other = (draw_image(label, np.random.default_rng(seed)) for seed in (1, 2))

    assert one.shape == other.shape == CIFAR10.image_shape
    assert np.abs(one.astype(int) - other).mean() > 5


def test_distractors_have_no_label(tmp_path):
    labels = make_synthetic_dataset(tmp_path, num_train=10, num_test=100)

    assert 50 < len(labels.ids) < 95
    assert labels.ids.max() <= 100


def test_demo_dataset_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.demo.dataset.DEMO_TRAIN", 20)
    monkeypatch.setattr("pipeline.demo.dataset.DEMO_TEST", 12)
    folder = demo_dataset(tmp_path, CIFAR10)
    mtime = (folder / CIFAR10.zip_name).stat().st_mtime_ns
    solution = (folder / "solution.csv").read_bytes()

    assert demo_dataset(tmp_path, CIFAR10) == folder
    assert (folder / CIFAR10.zip_name).stat().st_mtime_ns == mtime
    assert (folder / "solution.csv").read_bytes() == solution


def test_solution_has_the_labels_of_the_scored_test_images(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.demo.dataset.DEMO_TRAIN", 20)
    monkeypatch.setattr("pipeline.demo.dataset.DEMO_TEST", 12)
    solution = demo_dataset(tmp_path, CIFAR10) / "solution.csv"
    parsed = parse_labels(solution.read_bytes(), str(solution), CIFAR10)
    labels = make_synthetic_dataset(tmp_path / "again", num_train=20, num_test=12)

    assert np.array_equal(parsed.ids, labels.ids)
    assert np.array_equal(parsed.labels, labels.labels)


def test_images_of_another_task_have_its_size_and_a_look_for_each_class():
    images = [draw_image(label, np.random.default_rng(0), MANY_CLASSES) for label in range(25)]

    assert {image.shape for image in images} == {(48, 48, 3)}
    assert len({image.tobytes() for image in images}) == 25
    assert draw_distractor(np.random.default_rng(0), MANY_CLASSES).shape == (48, 48, 3)


def test_files_of_another_task_have_its_names_and_columns(tmp_path):
    task = replace(
        MANY_CLASSES,
        zip_name="letters.zip",
        train_labels_csv="truth.csv",
        sample_submission_csv="example.csv",
        train_archive="learn.7z",
        test_archive="exam.7z",
        id_column="image",
        label_column="target",
    )
    make_synthetic_dataset(tmp_path, num_train=50, num_test=5, task=task)

    with zipfile.ZipFile(tmp_path / "letters.zip") as files:
        assert sorted(files.namelist()) == ["exam.7z", "example.csv", "learn.7z", "truth.csv"]
        rows = list(csv.DictReader(files.read("truth.csv").decode().splitlines()))
    assert {row["target"] for row in rows} == set(task.class_names)
    assert [row["image"] for row in rows] == [str(i) for i in range(1, 51)]


def test_linear_model_on_pixels_has_a_low_accuracy():
    """The demo's model reaches more than 0.9 (test_end_to_end)."""
    images = np.stack([draw_image(i % 10, np.random.default_rng((9, i))) for i in range(1500)])
    pixels, labels = images.reshape(len(images), -1) / 255, np.arange(1500) % 10

    model = RidgeClassifier(alpha=100).fit(pixels[:1000], labels[:1000])

    assert model.score(pixels[1000:], labels[1000:]) < 0.6
