"""The drawn competition, in every form that the input may have; drawn once for all tests."""

import io
import os
import pickle
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import py7zr
import pytest

from pipeline.competition import drawn, pictures, source
from pipeline.task import ZIP_NAME

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as pipeline.cli does, before torch is loaded

ROOT = Path(__file__).resolve().parents[1]
# No test reaches the network: neither this process nor any that it starts.
NO_NETWORK = Path(__file__).parent / "no_network"
os.environ["PYTHONPATH"] = os.pathsep.join([str(NO_NETWORK), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))
NUM_TRAIN, NUM_TEST = 200, 60


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def _no_notebook_mount(monkeypatch, tmp_path):
    """Tests see the same on a Kaggle notebook as elsewhere."""
    monkeypatch.setattr(source, "NOTEBOOK_MOUNT", tmp_path / "no-such-mount")


@pytest.fixture(scope="session")
def zip_folder(tmp_path_factory):
    """A folder with cifar-10.zip as the client leaves it."""
    folder = tmp_path_factory.mktemp("zip")
    drawn.make_synthetic_dataset(folder, num_train=NUM_TRAIN, num_test=NUM_TEST, seed=1)
    return folder


@pytest.fixture(scope="session")
def archives_folder(zip_folder, tmp_path_factory):
    """The archives and CSVs unpacked from the zip."""
    folder = tmp_path_factory.mktemp("archives")
    with zipfile.ZipFile(zip_folder / ZIP_NAME) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def images_folder(archives_folder, tmp_path_factory):
    """The folders train/ and test/ unpacked from the archives, with the CSVs."""
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        with py7zr.SevenZipFile(archives_folder / f"{split}.7z") as archive:
            archive.extractall(folder)
    for csv in archives_folder.glob("*.csv"):
        (folder / csv.name).write_bytes(csv.read_bytes())
    return folder


CONFIG = """
members:
  net:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    augment:
      - {name: HorizontalFlip, params: {p: 0.5}}
    train: {epochs: 2, batch_size: 32, optimizer: {muon: {lr: 0.1}}}
  tutorial:
    model: {name: tutorial_cnn}
    train: {epochs: 3, batch_size: 16, optimizer: {lr: 0.02}}
folds: {num_folds: 3}
predict: {selective: {sample: 12}}
"""


@pytest.fixture(scope="session")
def whole_run(zip_folder, tmp_path_factory):
    """A folder with a recipe and a finished run, never stopped."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, ROOT / "run.py", "all", "--config", "tiny.yaml", "--input", str(zip_folder)]
    refused = os.environ | {"REFUSED_CONNECTIONS": str(folder / "refused_connections")}
    done = subprocess.run(command, cwd=folder, env=refused, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def run_py(tmp_path):
    """Call `python run.py ...` in a folder of its own; return the finished process."""

    def call(*words, cwd=tmp_path, **kwargs):
        command = [sys.executable, ROOT / "run.py", *map(str, words)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False, **kwargs)

    return call


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the real batches."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def _batch(images, classes):
    rows = np.stack([image.transpose(2, 0, 1).ravel() for image in images])
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump({b"data": rows, b"labels": classes, b"batch_label": b"drawn"})
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


@pytest.fixture
def batches_folder(tmp_path):
    """torchvision's cifar-10-batches-py, 20 images in each batch."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        classes = rng.permutation(np.arange(20) % 10).tolist()
        folder.joinpath(name).write_bytes(_batch([pictures.draw_image(kind, rng) for kind in classes], classes))
    return folder
