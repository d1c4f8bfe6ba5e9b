"""The drawn competition, in every form that the input may have; drawn once for all tests."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import py7zr
import pytest

from pipeline.competition import drawn, source
from pipeline.competition.facts import ZIP_NAME

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as pipeline.cli does, before torch is loaded

ROOT = Path(__file__).resolve().parents[1]
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
    drawn.draw_competition(folder, num_train=NUM_TRAIN, num_test=NUM_TEST, seed=1)
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


@pytest.fixture
def run_py(tmp_path):
    """Call `python run.py ...` in a folder of its own; return the finished process."""

    def call(*words, cwd=tmp_path, **kwargs):
        command = [sys.executable, ROOT / "run.py", *map(str, words)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False, **kwargs)

    return call
