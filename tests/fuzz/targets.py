"""What reads bytes from elsewhere, each with good bytes to begin with."""

import contextlib
import io
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import py7zr
import safetensors.torch
import torch

from pipeline.data.archive import SevenZip
from pipeline.data.torchvision_files import load_batch
from pipeline.demo.dataset import make_synthetic_dataset, encode_png
from pipeline.task import CLASS_NAMES, IMAGE_SHAPE, TRAIN_LABELS_CSV, ZIP_NAME
from pipeline.data.image_cache import open_store
from pipeline.data.kaggle_files import KaggleFiles
from pipeline.data.labels import parse_ids, parse_labels
from pipeline.data.decode import decode_png
from pipeline.submission.csv_file import find_problems
from pipeline.errors import UserError
from pipeline.predictions import Predictions
from pipeline.config_files import build_config, override_config, parse_yaml
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.prediction_files import load_predictions, save_predictions

IDS = np.arange(1, 6)
BYTES_OF_IDS = 128 + IDS.nbytes  # as an .npy


@dataclass(frozen=True)
class Target:
    """A reader of bytes. Anything but a result or a UserError is a finding."""

    read: Callable[[bytes], object]
    seeds: list[bytes]

    def try_bytes(self, data: bytes) -> None:
        """Read the bytes; every other error than a UserError comes through."""
        with contextlib.suppress(UserError):
            self.read(data)


def _archive(data: bytes) -> None:
    archive = SevenZip(lambda: io.BytesIO(data), "fuzz.7z")
    archive.names()
    for _ in archive.read():
        pass


def _download(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ZIP_NAME).write_bytes(data)
        files = KaggleFiles(Path(folder))
        files.labels()
        for split in ("train", "test"):
            files.ids(split)
            for _, png in files.read(split):
                files.decode(png)


def _recipe(data: bytes) -> None:
    text = data.decode(errors="replace")
    build_config(parse_yaml(text, "fuzz.yaml"), "fuzz.yaml")


def _override(data: bytes) -> None:
    override_config(build_config({}, "defaults"), [data.decode(errors="replace")])


def _predictions(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out_of_fold.npz"
        path.write_bytes(data)
        load_predictions(path)


def _weights(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights.safetensors").write_bytes(data)
        (Path(folder) / "checkpoint.safetensors").write_bytes(data)
        fold = FoldFolder(Path(folder))
        fold.weights()
        fold.load_checkpoint()


def _store(data: bytes) -> None:
    """The first bytes are a store's ids, the rest its images."""
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("ids.npy", data[:BYTES_OF_IDS]), ("images.npy", data[BYTES_OF_IDS:])):
            (Path(folder) / name).write_bytes(part)
        status = (Path(folder) / "images.npy").stat()
        open_store(Path(folder), {"num_images": 5, "checksum": "", "mtime_ns": status.st_mtime_ns})


def _csv_of(rows: list[tuple[int, str]]) -> bytes:
    return ("id,label\n" + "".join(f"{number},{label}\n" for number, label in rows)).encode()


def _made_files() -> tuple[bytes, bytes, bytes]:
    """Return a small download, an archive from it, and an .npz."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_synthetic_dataset(folder, num_train=10, num_test=5, seed=1)
        download = (folder / ZIP_NAME).read_bytes()
        with zipfile.ZipFile(folder / ZIP_NAME) as whole:
            archive = whole.read("test.7z")
        save_predictions(folder / "p.npz", Predictions(IDS, np.full((5, 10), 0.1, np.float32)), IDS)
        return download, archive, (folder / "p.npz").read_bytes()


def _stored_archive() -> bytes:
    """Return an archive that is left to py7zr: nothing compressed."""
    file = io.BytesIO()
    with py7zr.SevenZipFile(file, "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        archive.writestr(b"not an image", "train/1.png")
    return file.getvalue()


def _saved_store() -> bytes:
    file = io.BytesIO()
    np.save(file, IDS)
    np.save(file, np.zeros((len(IDS), *IMAGE_SHAPE), np.uint8))
    return file.getvalue()


def _pickled_batch() -> bytes:
    rows = np.zeros((10, int(np.prod(IMAGE_SHAPE))), np.uint8)
    return pickle.dumps({b"data": rows, b"labels": list(range(10))}, protocol=3)


def make_targets() -> dict[str, Target]:
    """Return every target by its name."""
    download, archive, predictions = _made_files()
    rows = [(number, CLASS_NAMES[number]) for number in IDS.tolist()]
    weights = safetensors.torch.save({"a": torch.zeros(2, 3)}, metadata={"history": "[]"})
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    return {
        "archive": Target(_archive, [archive, _stored_archive()]),
        "download": Target(_download, [download]),
        "png": Target(decode_png, [encode_png(image)]),
        "labels": Target(lambda data: parse_labels(data, TRAIN_LABELS_CSV), [_csv_of(rows)]),
        "ids": Target(lambda data: parse_ids(data, "sampleSubmission.csv"), [_csv_of(rows)]),
        "submission": Target(lambda data: find_problems(data, IDS), [_csv_of(rows)]),
        "store": Target(_store, [_saved_store()]),
        "batch": Target(lambda data: load_batch(data, "data_batch_1"), [_pickled_batch()]),
        "recipe": Target(_recipe, [b"folds: {num_folds: 3}\nmembers:\n  net: {model: {name: a}}\n", b"a: &a [*a]\n"]),
        "override": Target(_override, [b"folds.num_folds=3", b"members.net.train.epochs=[1, 2]"]),
        "predictions": Target(_predictions, [predictions]),
        "weights": Target(_weights, [weights]),
    }
