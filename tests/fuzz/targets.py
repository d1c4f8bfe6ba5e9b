"""The readers of untrusted bytes, each with valid bytes as seeds."""

import contextlib
import io
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import py7zr
import safetensors.torch
import torch

from pipeline.config_files import build_config, override_config, parse_yaml
from pipeline.data.decode import decode_png
from pipeline.data.image_store import open_store
from pipeline.data.kaggle_files import KaggleFiles
from pipeline.data.labels import parse_ids, parse_labels
from pipeline.data.seven_zip_reader import SevenZipReader
from pipeline.data.torchvision_files import BATCH_NAMES, TorchvisionFiles, load_batch
from pipeline.demo.dataset import encode_png, make_synthetic_dataset
from pipeline.errors import UserError
from pipeline.predictions import Predictions
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.prediction_files import load_predictions, save_predictions
from pipeline.submission.csv_file import find_problems
from pipeline.task import CIFAR10

IDS = np.arange(1, 6)
IDS_SIZE = 128 + IDS.nbytes  # bytes of the .npy file


@dataclass(frozen=True)
class Target:
    """A reader of bytes. Anything but a result or a UserError is a failure."""

    read: Callable[[bytes], object]
    seeds: list[bytes]

    def try_bytes(self, data: bytes) -> None:
        """Read the bytes; any error but a UserError is raised."""
        with contextlib.suppress(UserError):
            self.read(data)


def _archive(data: bytes) -> None:
    archive = SevenZipReader(lambda: io.BytesIO(data), "fuzz.7z")
    archive.names()
    with archive.read() as members:
        for _ in members:
            pass


def _download(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CIFAR10.zip_name).write_bytes(data)
        files = KaggleFiles(Path(folder), CIFAR10)
        files.labels()
        for split in ("train", "test"):
            files.fingerprint(split)
            files.ids(split)
            with files.read(split) as images:
                for _, png in images:
                    files.decode(png)


def _tar(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cifar-10-python.tar.gz"
        path.write_bytes(data)
        TorchvisionFiles(path, CIFAR10).labels()


def _config(data: bytes) -> None:
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
    """Open a store whose ids are the first bytes, and whose images are the rest."""
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("ids.npy", data[:IDS_SIZE]), ("images.npy", data[IDS_SIZE:])):
            (Path(folder) / name).write_bytes(part)
        status = (Path(folder) / "images.npy").stat()
        manifest = {"num_images": len(IDS), "checksum": "", "mtime_ns": status.st_mtime_ns}
        open_store(Path(folder), manifest, CIFAR10.image_shape)


def _make_csv(rows: list[tuple[int, str]]) -> bytes:
    return (CIFAR10.csv_header + "\n" + "".join(f"{number},{label}\n" for number, label in rows)).encode()


def _make_files() -> tuple[bytes, bytes, bytes]:
    """Return a small download, an archive from it, and predictions."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_synthetic_dataset(folder, num_train=10, num_test=5, seed=1)
        download = (folder / CIFAR10.zip_name).read_bytes()
        with zipfile.ZipFile(folder / CIFAR10.zip_name) as whole:
            archive = whole.read("test.7z")
        logits = np.zeros((len(IDS), CIFAR10.num_classes), np.float32)
        save_predictions(folder / "p.npz", Predictions(IDS, logits))
        return download, archive, (folder / "p.npz").read_bytes()


def _make_archive(method: int) -> bytes:
    """Return an archive of a method that py7zr extracts."""
    file = io.BytesIO()
    with py7zr.SevenZipFile(file, "w", filters=[{"id": method}]) as archive:
        archive.writestr(b"not an image", "train/1.png")
    return file.getvalue()


def _deflate(download: bytes) -> bytes:
    """Return a zip with its members compressed, in a folder."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(download)) as stored, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as deflated:
        for name in stored.namelist():
            deflated.writestr(f"cifar-10/{name}", stored.read(name))
    return file.getvalue()


def _make_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in BATCH_NAMES["train"] + BATCH_NAMES["test"]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(_make_batch())
            tar.addfile(member, io.BytesIO(_make_batch()))
    return file.getvalue()


def _make_store() -> bytes:
    file = io.BytesIO()
    np.save(file, IDS)
    np.save(file, np.zeros((len(IDS), *CIFAR10.image_shape), np.uint8))
    return file.getvalue()


def _make_batch() -> bytes:
    rows = np.zeros((10, int(np.prod(CIFAR10.image_shape))), np.uint8)
    return pickle.dumps({b"data": rows, b"labels": list(range(10))}, protocol=3)


def make_targets() -> dict[str, Target]:
    """Return the targets by their names."""
    download, archive, predictions = _make_files()
    rows = [(image_id, CIFAR10.class_names[image_id]) for image_id in IDS.tolist()]
    weights = safetensors.torch.save({"a": torch.zeros(2, 3)}, metadata={"history": "[]"})
    image = np.random.default_rng(0).integers(0, 256, CIFAR10.image_shape, np.uint8)
    return {
        "archive": Target(_archive, [archive, *map(_make_archive, (py7zr.FILTER_COPY, py7zr.FILTER_BZIP2))]),
        "download": Target(_download, [download, _deflate(download)]),
        "tar": Target(_tar, [_make_tar()]),
        "png": Target(lambda data: decode_png(data, CIFAR10.image_shape), [encode_png(image)]),
        "labels": Target(lambda data: parse_labels(data, "labels.csv", CIFAR10), [_make_csv(rows)]),
        "ids": Target(lambda data: parse_ids(data, "ids.csv", CIFAR10), [_make_csv(rows)]),
        "submission": Target(lambda data: find_problems(data, IDS, CIFAR10), [_make_csv(rows)]),
        "store": Target(_store, [_make_store()]),
        "batch": Target(lambda data: load_batch(data, "data_batch_1", CIFAR10), [_make_batch()]),
        "config": Target(_config, [b"folds: {num_folds: 3}\nmembers:\n  net: {model: {name: a}}\n", b"a: &a [*a]\n"]),
        "override": Target(_override, [b"folds.num_folds=3", b"members.net.train.epochs=[1, 2]"]),
        "predictions": Target(_predictions, [predictions]),
        "weights": Target(_weights, [weights]),
    }
