"""From archive to array: against bare LZMA decoding, and against what a user writes."""

import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import py7zr
from PIL import Image

from pipeline.data.archive import decode_stream
from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.task import ZIP_NAME
from pipeline.data.prepare import prepare
from pipeline.data.seven_zip_header import read_header


def bare_lzma(archive: Path) -> None:
    """Decode the packed streams and throw the bytes away."""
    with archive.open("rb") as file:
        for block in read_header(file)[0]:
            for _ in decode_stream(file, block):
                pass


def extract_and_read(archives: Path, work: Path) -> None:
    """Do what a user writes: extract all files with py7zr, then open each with PIL."""
    for split in ("train", "test"):
        with py7zr.SevenZipFile(archives / f"{split}.7z") as archive:
            archive.extractall(work)
        paths = sorted((work / split).iterdir())
        images = np.empty((len(paths), 32, 32, 3), np.uint8)
        for row, path in enumerate(paths):
            images[row] = np.asarray(Image.open(path))


def main() -> None:
    """Print the ratios for the competition in a folder, or for a drawn one; once, as full size takes minutes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else folder
        if len(sys.argv) == 1:
            make_synthetic_dataset(folder, num_train=5000, num_test=20_000, seed=0)
        with zipfile.ZipFile(source / ZIP_NAME) as whole:
            whole.extractall(folder / "archives")
        steps = {
            "prepare": partial(prepare, source, folder / "cache"),
            "bare LZMA of test.7z": partial(bare_lzma, folder / "archives" / "test.7z"),
            "extract and PIL": partial(extract_and_read, folder / "archives", folder / "files"),
        }
        seconds = {}
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name] = time.perf_counter() - began
            print(f"{name}: {seconds[name]:.1f} s", flush=True)
        prepared = seconds["prepare"]
        print(f"prepare, both archives / bare LZMA of test.7z: {prepared / seconds['bare LZMA of test.7z']:.2f}")
        print(f"extract and PIL / prepare: {seconds['extract and PIL'] / prepared:.2f}")


if __name__ == "__main__":
    main()
