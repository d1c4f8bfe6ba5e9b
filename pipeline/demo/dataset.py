"""A small competition drawn by program, in Kaggle's own files: the demo's and the tests' data.

A good accuracy on it says that the pipeline works, and nothing about CIFAR-10.
"""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import py7zr

from pipeline.task import CLASS_NAMES, SAMPLE_SUBMISSION_CSV, TRAIN_LABELS_CSV, ZIP_NAME, Image
from pipeline.data.labels import Labels, parse_labels
from pipeline.demo.images import draw_image, draw_distractor
from pipeline.files import write_text

VERSION = 1  # raised when the same seed would draw other pictures
DEMO_TRAIN, DEMO_TEST = 3000, 1500
JUNK_SHARE = 0.25  # of the test images; in the competition it is 97 %
LZMA = [{"id": py7zr.FILTER_LZMA2, "preset": 1}]


def draw_once(parent: Path) -> tuple[Path, Labels]:
    """Draw the demo's competition, or find it drawn; return its folder and the labels of the test images that count."""
    folder = parent / f"drawn-{VERSION}"
    solution = folder / "solution.csv"
    if not solution.exists():
        labels = make_synthetic_dataset(folder, num_train=DEMO_TRAIN, num_test=DEMO_TEST)
        rows = zip(labels.ids.tolist(), labels.classes.tolist(), strict=True)
        write_text(solution, "id,label\n" + "".join(f"{number},{CLASS_NAMES[kind]}\n" for number, kind in rows))
    return folder, parse_labels(solution.read_bytes(), str(solution))


def make_synthetic_dataset(folder: Path, *, num_train: int, num_test: int, seed: int = 0) -> Labels:
    """Write cifar-10.zip with train.7z, test.7z and both CSVs; return the labels of the test images that count."""
    rng = np.random.default_rng((seed, 1))
    folder.mkdir(parents=True, exist_ok=True)
    train_classes = rng.permutation(np.arange(num_train) % len(CLASS_NAMES))
    test_classes = rng.integers(len(CLASS_NAMES), size=num_test)
    is_junk = rng.random(num_test) < JUNK_SHARE
    train = [draw_image(int(kind), np.random.default_rng((seed, 2, i))) for i, kind in enumerate(train_classes)]
    test = [
        draw_distractor(np.random.default_rng((seed, 3, i)))
        if junk
        else draw_image(int(kind), np.random.default_rng((seed, 4, i)))
        for i, (kind, junk) in enumerate(zip(test_classes, is_junk, strict=True))
    ]
    rows = "".join(f"{i},{CLASS_NAMES[kind]}\n" for i, kind in enumerate(train_classes, start=1))
    sample = "".join(f"{i},cat\n" for i in range(1, num_test + 1))
    partial = folder / f".{ZIP_NAME}.partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as download:
        for name, data in {SAMPLE_SUBMISSION_CSV: sample, TRAIN_LABELS_CSV: rows}.items():
            download.writestr(name, "id,label\n" + data)
        for split, images in {"test": test, "train": train}.items():
            archive = folder / f"{split}.7z"
            write_archive(archive, {f"{split}/{i}.png": encode_png(image) for i, image in enumerate(images, start=1)})
            download.write(archive, archive.name)
            archive.unlink()
    partial.replace(folder / ZIP_NAME)
    counted = np.flatnonzero(~is_junk)
    return Labels(counted + 1, test_classes[counted].astype(np.int64))


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
