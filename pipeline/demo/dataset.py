"""A small synthetic dataset in the form of Kaggle's files, for the demo and the tests.

A good accuracy on it shows that the pipeline works; it is not comparable with accuracies on real images.
"""

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import py7zr
from numpy.typing import NDArray

from pipeline.demo.images import draw_distractor, draw_image
from pipeline.files import write_text
from pipeline.locks import file_lock
from pipeline.task import CIFAR10, Image, Labels, Split, Task

VERSION = 1  # increment when the images of a seed change
DEMO_TRAIN, DEMO_TEST = 3000, 1500
DISTRACTOR_SHARE = 0.25  # of the test images; 97 % in Kaggle's CIFAR-10
SAMPLE_LABEL = 3  # of every row of the sample submission; Kaggle's has "cat"
SOLUTION_CSV = "solution.csv"
LZMA = [{"id": py7zr.FILTER_LZMA2, "preset": 1}]


def demo_dataset(parent: Path, task: Task) -> Path:
    """Return the demo dataset's folder; the first call writes it, with the labels of the scored test images.

    A dataset whose zip is missing or corrupted is made again, with the same images.
    """
    folder = parent / f"synthetic-{VERSION}"
    if not _is_complete(folder, task):
        with file_lock(parent / f".{folder.name}.lock", wait_for="it makes the synthetic dataset"):
            if not _is_complete(folder, task):
                shutil.rmtree(folder, ignore_errors=True)
                labels = make_synthetic_dataset(folder, num_train=DEMO_TRAIN, num_test=DEMO_TEST, task=task)
                write_text(folder / SOLUTION_CSV, _labels_csv(labels, task))
    return folder


def _is_complete(folder: Path, task: Task) -> bool:
    """Return whether the solution, which is written last, and a zip with the right checksums are there."""
    if not (folder / SOLUTION_CSV).is_file():
        return False
    try:
        with zipfile.ZipFile(folder / task.zip_name) as download:
            return download.testzip() is None
    except Exception:
        # Corrupted bytes make zipfile raise errors of any class.
        return False


def make_synthetic_dataset(
    folder: Path, *, num_train: int, num_test: int, seed: int = 0, task: Task = CIFAR10
) -> Labels:
    """Write Kaggle's zip with both archives and both CSVs; return the labels of the scored test images."""
    rng = np.random.default_rng((seed, 1))
    folder.mkdir(parents=True, exist_ok=True)
    train_labels = rng.permutation(np.arange(num_train) % task.num_classes)
    test_labels = rng.integers(task.num_classes, size=num_test)
    is_distractor = rng.random(num_test) < DISTRACTOR_SHARE
    train = [draw_image(int(y), np.random.default_rng((seed, 2, i)), task) for i, y in enumerate(train_labels)]
    test = [
        draw_distractor(np.random.default_rng((seed, 3, i)), task)
        if distractor
        else draw_image(int(y), np.random.default_rng((seed, 4, i)), task)
        for i, (y, distractor) in enumerate(zip(test_labels, is_distractor, strict=True))
    ]
    csv_files = {
        task.sample_submission_csv: _with_ids(np.full(num_test, SAMPLE_LABEL % task.num_classes)),
        task.train_labels_csv: _with_ids(train_labels),
    }
    images: dict[Split, list[Image]] = {"test": test, "train": train}
    partial = folder / f".{task.zip_name}.partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as download:
        for name, labels in csv_files.items():
            download.writestr(name, _labels_csv(labels, task))
        for split in images:
            archive = folder / task.archive_name(split)
            pngs = {f"{split}/{i}.png": encode_png(image) for i, image in enumerate(images[split], start=1)}
            write_archive(archive, pngs)
            download.write(archive, archive.name)
            archive.unlink()
    partial.replace(folder / task.zip_name)
    scored = np.flatnonzero(~is_distractor)
    return Labels(scored + 1, test_labels[scored].astype(np.int64))


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """Write members into one solid LZMA2 block, as Kaggle does."""
    with py7zr.SevenZipFile(path, "w", filters=LZMA) as archive:
        for name, data in members.items():
            archive.writestr(data, name)


def encode_png(image: Image) -> bytes:
    """Encode RGB uint8 [height, width, 3] as a PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _with_ids(labels: NDArray[np.int64]) -> Labels:
    """Number labels from 1, as Kaggle does."""
    return Labels(np.arange(1, len(labels) + 1), labels)


def _labels_csv(labels: Labels, task: Task) -> str:
    rows = zip(labels.ids.tolist(), labels.labels.tolist(), strict=True)
    return task.csv_header + "\n" + "".join(f"{number},{task.class_names[label]}\n" for number, label in rows)
