"""From archive to array: against LZMA decoding alone, and against what users write."""

import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import py7zr
from PIL import Image

from pipeline.data.prepare import prepare
from pipeline.data.seven_zip_header import read_header
from pipeline.data.seven_zip_reader import decode_stream
from pipeline.data.source import find_source
from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.task import CIFAR10


def find_and_prepare(input_dir: Path, cache_dir: Path) -> None:
    """Do what `python run.py prepare` does."""
    prepare(find_source(input_dir, CIFAR10), cache_dir)


def bare_lzma(archive: Path) -> None:
    """Decode the packed streams and discard the bytes."""
    with archive.open("rb") as file:
        for block in read_header(file)[0]:
            for _ in decode_stream(file, block):
                pass


def extract_and_read(archives: Path, work: Path) -> None:
    """Do what users write: extract all files with py7zr, then open each with PIL."""
    for split in ("train", "test"):
        with py7zr.SevenZipFile(archives / CIFAR10.archive_name(split)) as archive:
            archive.extractall(work)
        paths = sorted((work / split).iterdir())
        images = np.empty((len(paths), *CIFAR10.image_shape), np.uint8)
        for row, path in enumerate(paths):
            images[row] = np.asarray(Image.open(path))


def main() -> None:
    """Print the ratios for Kaggle's files in a folder, or for synthetic ones; one round: full size takes minutes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        input_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else folder
        if len(sys.argv) == 1:
            make_synthetic_dataset(folder, num_train=5000, num_test=20_000, seed=0)
        with zipfile.ZipFile(input_dir / CIFAR10.zip_name) as download:
            download.extractall(folder / "archives")
        steps = {
            "prepare": partial(find_and_prepare, input_dir, folder / "cache"),
            "bare LZMA of test.7z": partial(bare_lzma, folder / "archives" / CIFAR10.test_archive),
            "extract and PIL": partial(extract_and_read, folder / "archives", folder / "files"),
        }
        seconds = {}
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name] = time.perf_counter() - start
            print(f"{name}: {seconds[name]:.1f} s", flush=True)
        prepare_seconds = seconds["prepare"]
        print(f"prepare, both archives / bare LZMA of test.7z: {prepare_seconds / seconds['bare LZMA of test.7z']:.2f}")
        print(f"extract and PIL / prepare: {seconds['extract and PIL'] / prepare_seconds:.2f}")


if __name__ == "__main__":
    main()
