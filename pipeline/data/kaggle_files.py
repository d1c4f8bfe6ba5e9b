"""Kaggle's files in any of their forms -> ids, encoded images and labels."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.advice import download_again
from pipeline.data.decode import decode_png
from pipeline.data.fingerprint import file_fingerprint
from pipeline.data.image_folder import ImageFolder
from pipeline.data.labels import parse_ids, parse_labels
from pipeline.data.missing_files import explain_missing
from pipeline.data.paths import describe_path, exists, is_file, is_folder
from pipeline.data.read_errors import read_errors
from pipeline.data.seven_zip_reader import SevenZipReader
from pipeline.data.zip_reader import ZipReader
from pipeline.errors import InputError
from pipeline.task import SPLITS, Ids, Image, Labels, Split, Task

MAX_CSV = 1 << 25  # bytes; that of 300,000 ids has 5 MB
MAX_HEAD = 1000  # bytes


class KaggleFiles:
    """The whole zip, the archives extracted from it, or the folders extracted from those."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.task = folder, task
        path = folder / task.zip_name
        self._zip = ZipReader(path, task) if is_file(path) else None
        self.name = str(path if self._zip else folder)
        self._archives: dict[Split, SevenZipReader] = {}

    def is_complete(self) -> bool:
        """Return whether the images of both splits are there, and a labels' CSV with this task's columns and labels.

        Raises InputError if a part is missing or can't be read.
        """
        lines = self._csv(self.task.train_labels_csv)[:MAX_HEAD].decode("utf-8-sig", errors="replace").splitlines()
        has_labels = lines[:1] == [self.task.csv_header] and lines[1:2] != []
        return has_labels and lines[1].rpartition(",")[2] in self.task.class_names and all(map(self._images, SPLITS))

    def ids(self, split: Split) -> Ids:
        """Return the ids by the file names in the archive or folder."""
        images = self._images(split)
        if isinstance(images, ImageFolder):
            names = [f"{split}/{name}" for name in images.names()]
        else:
            names = self._archive(split).names()
        id_of = self._id_parser(split)
        ids = np.array([id_of(name) for name in names], dtype=np.int64)
        if not len(ids):
            raise InputError(f"{self._images_path(split)} contains no images, expected {split}/1.png and more")
        ids.sort()
        duplicates = ids[1:][ids[1:] == ids[:-1]]
        if len(duplicates):
            raise InputError(f"{self._images_path(split)} contains image {split}/{duplicates[0]}.png more than once")
        if split == "test":
            self._check_test_ids(ids)
        return ids

    @contextmanager
    def read(self, split: Split) -> Iterator[Iterator[tuple[int, bytes]]]:
        """Read ids and PNGs ahead, from the archive or folder, while the block runs."""
        images, id_of = self._images(split), self._id_parser(split)
        if isinstance(images, ImageFolder):
            with images.read() as files:
                yield ((id_of(f"{split}/{name}"), data) for name, data in files)
        else:
            with self._archive(split).read() as members:
                yield ((id_of(name), data) for name, data in members)

    def decode(self, data: bytes) -> Image:
        """Decode a PNG."""
        return decode_png(data, self.task.image_shape)

    def labels(self) -> Labels:
        """Return the labels of the CSV."""
        name = self.task.train_labels_csv
        return parse_labels(self._csv(name), self._path_of(name), self.task)

    def test_labels(self) -> None:
        """Return None: Kaggle does not publish them."""

    def release(self) -> None:
        """Free the archives' headers."""
        self._archives.clear()

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Return name, size and modification time of the zip, the archive, or the images in the folder."""
        images = self._images(split)
        return images.fingerprint() if isinstance(images, ImageFolder) else file_fingerprint(images)

    def _images(self, split: Split) -> Path | ImageFolder:
        """Return the zip or archive with a split's images, or their folder. Raises InputError if there is none."""
        archive, folder = self.task.archive_name(split), self.folder / split
        if zipped := self._zip_with(archive):
            return zipped.path
        if is_file(self.folder / archive):
            return self.folder / archive
        if is_folder(folder):
            return ImageFolder(folder)
        raise InputError(explain_missing(self.folder, self.task, split, self._zip))

    def _check_test_ids(self, ids: Ids) -> None:
        """Raises InputError unless the ids are those of the sample submission, or 1 to N if that is missing."""
        sample = self.task.sample_submission_csv
        if self._has(sample):
            expected = parse_ids(self._csv(sample), self._path_of(sample), self.task)
            missing, num_expected = np.setdiff1d(expected, ids), len(expected)
            unexpected = np.setdiff1d(ids, expected)
        else:
            # All up to the highest, of which a hostile one would take gigabytes.
            num_expected, unexpected = int(ids[-1]), ids[:0]
            missing = np.setdiff1d(np.arange(1, len(ids) + 1), ids)
        num_missing = num_expected - len(ids) + len(unexpected)
        for wrong, number, problem in (
            (missing, num_missing, "is missing image"),
            (unexpected, len(unexpected), "contains the unexpected image"),
        ):
            if len(wrong):
                raise InputError(
                    f"{self._images_path('test')} {problem} test/{wrong[0]}.png ({number} in all), "
                    f"expected {num_expected} images; extract it again, or {self._again}"
                )

    def _id_parser(self, split: Split) -> "partial[int]":
        """Return the function from the name of a split's image, SPLIT/ID.png, to its id."""
        pattern = re.compile(rf"{split}/({self.task.id_pattern})\.png")
        return partial(_parse_id, pattern, split, self._images_path(split))

    def _archive(self, split: Split) -> SevenZipReader:
        """Return a split's archive, opened once: reading the header of a large one takes a second."""
        if split not in self._archives:
            name = self.task.archive_name(split)
            self._archives[split] = SevenZipReader(partial(self._open, name), self._path_of(name), self._again)
        return self._archives[split]

    @property
    def _again(self) -> str:
        return f"download it again: {download_again(self.folder)}"

    def _has(self, name: str) -> bool:
        return self._zip_with(name) is not None or is_file(self.folder / name)

    def _zip_with(self, name: str) -> ZipReader | None:
        """Return the zip if it contains a file."""
        return self._zip if self._zip and name in self._zip.names else None

    def _path_of(self, name: str) -> str:
        """Return where a file is, for messages."""
        return f"{self.name}:{name}" if self._zip_with(name) else str(self.folder / name)

    def _images_path(self, split: Split) -> str:
        """Return where a split's images are, for messages."""
        archive = self.task.archive_name(split)
        return self._path_of(archive if self._has(archive) else split)

    def _open(self, name: str) -> AbstractContextManager[BinaryIO]:
        zipped = self._zip_with(name)
        return zipped.open(name) if zipped else (self.folder / name).open("rb")

    def _csv(self, name: str) -> bytes:
        """Return the bytes of a CSV. A CSV has no checksum but that of a zip around it, which is checked."""
        path = self.folder / name
        if not self._has(name):
            found = f"{path} {describe_path(path)}, expected a file" if exists(path) else f"no {name}"
            raise InputError(f"{self.folder} has images but {found}; it comes with the competition's download")
        if zipped := self._zip_with(name):
            data = zipped.read(name, MAX_CSV + 1)
        else:
            with read_errors(path), path.open("rb") as file:
                data = file.read(MAX_CSV + 1)
        if len(data) > MAX_CSV:
            raise InputError(
                f"{self._path_of(name)} has more than {MAX_CSV:,} bytes, expected a list of ids and labels"
            )
        return data


def _parse_id(pattern: re.Pattern[str], split: Split, images_path: str, name: str) -> int:
    match = pattern.fullmatch(name)
    if not match:
        raise InputError(f"{images_path} contains {name!r}, expected names such as {split}/1.png")
    return int(match[1])
