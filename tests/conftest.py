"""The synthetic dataset in every form that the input can have; made once for all tests."""

import io
import json
import logging
import os
import pickle
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import py7zr
import pytest

from pipeline.cli import main
from pipeline.data import source
from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.demo.images import draw_image
from pipeline.progress import log
from pipeline.task import CIFAR10

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as pipeline.cli does, before torch is loaded

ROOT = Path(__file__).resolve().parents[1]
# No test may reach the network, neither in this process nor in its subprocesses.
NO_NETWORK = Path(__file__).parent / "no_network"
os.environ["PYTHONPATH"] = os.pathsep.join([str(NO_NETWORK), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))
NUM_TRAIN, NUM_TEST = 200, 60


def pytest_collection_modifyitems(items):
    """Run the fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True)
def _no_logging_of_another_test():
    """Undo what a command that ran in this process has set; its handler would write to a closed stream."""
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True


@pytest.fixture(autouse=True)
def _no_notebook_mount(monkeypatch, tmp_path):
    """Hide the data that is mounted in a Kaggle notebook."""
    monkeypatch.setattr(source, "NOTEBOOK_MOUNT", tmp_path / "no-such-mount")


@pytest.fixture(scope="session")
def zip_folder(tmp_path_factory):
    """A folder with cifar-10.zip, as Kaggle's client saves it."""
    folder = tmp_path_factory.mktemp("zip")
    make_synthetic_dataset(folder, num_train=NUM_TRAIN, num_test=NUM_TEST, seed=1)
    return folder


@pytest.fixture(scope="session")
def archives_folder(zip_folder, tmp_path_factory):
    """A folder with the archives and CSVs, unpacked from the zip."""
    folder = tmp_path_factory.mktemp("archives")
    with zipfile.ZipFile(zip_folder / CIFAR10.zip_name) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def images_folder(archives_folder, tmp_path_factory):
    """A folder with train/ and test/, unpacked from the archives, and the CSVs."""
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
predict: {cascade: {calibration_size: 12, max_accuracy_drop: 0.3}}
machine: {jobs: 1}
"""


@pytest.fixture(scope="session")
def whole_run(zip_folder, tmp_path_factory):
    """A folder with a config and a finished, uninterrupted run; and its finished process."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, ROOT / "run.py", "all", "--config", "tiny.yaml", "--input", str(zip_folder)]
    refused = os.environ | {"REFUSED_CONNECTIONS": str(folder / "refused_connections")}
    done = subprocess.run(command, cwd=folder, env=refused, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done


TWO_MEMBERS = """
members:
  net:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    train: {epochs: 1, batch_size: 32}
  resized:
    model: {name: tutorial_cnn, image_size: 40}
    train: {epochs: 1, batch_size: 32}
folds: {num_folds: 2, train: [0]}
refit: {models: 1, with_folds: true}
predict: {tta: flip_translate}
machine: {jobs: 1}
"""


@pytest.fixture(scope="session")
def trained_folder(zip_folder, tmp_path_factory):
    """A folder with the trained run `two`: a fold and a refit of two members, one of which resizes its images."""
    from pipeline import workflow
    from pipeline.run_context import open_context

    folder = tmp_path_factory.mktemp("trained")
    (folder / "two.yaml").write_text(TWO_MEMBERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workflow.train(open_context(CIFAR10, config_path=Path("two.yaml"), input_dir=zip_folder))
        # After so short a training one member may have no weight.
        ensemble = {"temperatures": {"net": 0.7, "resized": 0.4}, "weights": {"net": 0.25, "resized": 0.75}}
        Path("submissions/two/ensemble.json").write_text(json.dumps(ensemble))
    return folder


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Run a command in this process, in an empty folder unless the test has changed to another one.

    Returns its status, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(status=exit_.value.code or 0, stdout=captured.out, stderr=captured.err)

    return call


@pytest.fixture
def run_py(tmp_path):
    """Run `python run.py ...` in the test's folder; return the finished process."""

    def run(*arguments, cwd=tmp_path, **kwargs):
        command = [sys.executable, ROOT / "run.py", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False, **kwargs)

    return run


class _Python2Pickler(pickle._Pickler):
    """Write bytes as Python 2 strings, as in the original batches."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def _batch(images, labels):
    rows = np.stack([image.transpose(2, 0, 1).ravel() for image in images])
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump({b"data": rows, b"labels": labels, b"batch_label": b"synthetic"})
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


@pytest.fixture
def batches_folder(tmp_path):
    """torchvision's cifar-10-batches-py with 20 images per batch."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = rng.permutation(np.arange(20) % 10).tolist()
        folder.joinpath(name).write_bytes(_batch([draw_image(label, rng) for label in labels], labels))
    return folder
