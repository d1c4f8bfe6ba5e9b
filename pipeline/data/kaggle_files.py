"""Kaggle's files in any of their forms -> ids, encoded images and labels."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.cores import available_cores
from pipeline.data.decode import decode_png
from pipeline.data.labels import parse_ids, parse_labels
from pipeline.data.prefetch import Put, prefetch
from pipeline.data.seven_zip_reader import MAX_MEMBER, SevenZipReader
from pipeline.data.zip_reader import ZipReader
from pipeline.errors import InputError
from pipeline.task import Ids, Image, Labels, Split, Task

CHUNK_SIZE = 500  # files per read job
MAX_CSV = 1 << 25  # bytes; that of 300,000 ids has 5 MB


class KaggleFiles:
    """The whole zip, the archives extracted from it, or the folders extracted from those."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._folder, self.task = folder, task
        path = folder / task.zip_name
        self._zip = ZipReader(path, task.url) if path.exists() else None
        self.name = str(path if self._zip else folder)
        self._archives: dict[Split, SevenZipReader] = {}

    def ids(self, split: Split) -> Ids:
        """Return the ids by the file names in the archive or folder."""
        if self._has(self.task.archive_name(split)):
            names = self._archive(split).names()
        else:
            names = [f"{split}/{name}" for name in self._png_names(split)]
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
        id_of = self._id_parser(split)
        if self._has(self.task.archive_name(split)):
            with self._archive(split).read() as members:
                yield ((id_of(name), data) for name, data in members)
        else:
            names = self._png_names(split)
            chunks = [names[start : start + CHUNK_SIZE] for start in range(0, len(names), CHUNK_SIZE)]
            jobs = [partial(self._read_pngs, split, chunk) for chunk in chunks]
            with prefetch(jobs, available_cores()) as pieces:
                yield chain.from_iterable(pieces)

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
        """Return name, size and modification time of the zip, the archive, or the folder (size: number of files)."""
        archive = self.task.archive_name(split)
        if zipped := self._zip_with(archive):
            path = zipped.path
        else:
            path = self._folder / (archive if self._has(archive) else split)
        status = path.stat()
        size = status.st_size if path.is_file() else len(self._png_names(split))
        return {"name": path.name, "size": size, "mtime_ns": status.st_mtime_ns}

    def _check_test_ids(self, ids: Ids) -> None:
        """Raises InputError unless the ids are those of the sample submission, or 1 to N if that is missing."""
        sample = self.task.sample_submission_csv
        if self._has(sample):
            expected = parse_ids(self._csv(sample), self._path_of(sample), self.task)
        else:
            expected = np.arange(1, ids[-1] + 1)
        for wrong, problem in (
            (np.setdiff1d(expected, ids), "is missing image"),
            (np.setdiff1d(ids, expected), "contains the unexpected image"),
        ):
            if len(wrong):
                raise InputError(
                    f"{self._images_path('test')} {problem} test/{wrong[0]}.png ({len(wrong)} in all), "
                    f"expected {len(expected)} images; download or extract it again"
                )

    def _id_parser(self, split: Split) -> "partial[int]":
        """Return the function from the name of a split's image, SPLIT/ID.png, to its id."""
        return partial(_parse_id, re.compile(rf"{split}/({self.task.id_pattern})\.png"), split)

    def _archive(self, split: Split) -> SevenZipReader:
        """Return a split's archive, opened once: reading the header of a large one takes a second."""
        if split not in self._archives:
            name = self.task.archive_name(split)
            self._archives[split] = SevenZipReader(partial(self._open, name), self._path_of(name))
        return self._archives[split]

    def _read_pngs(self, split: Split, names: list[str], put: Put[list[tuple[int, bytes]]]) -> None:
        id_of, images = self._id_parser(split), []
        for name in names:
            path = self._folder / split / name
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_MEMBER + 1)
            except OSError as error:
                raise InputError(f"{path} can't be read: {error.strerror}; extract it again") from None
            if len(data) > MAX_MEMBER:
                raise InputError(f"{path} has more than {MAX_MEMBER:,} bytes, expected an image; extract it again")
            images.append((id_of(f"{split}/{name}"), data))
        put(images)

    def _has(self, name: str) -> bool:
        return self._zip_with(name) is not None or (self._folder / name).is_file()

    def _zip_with(self, name: str) -> ZipReader | None:
        """Return the zip if it contains a file."""
        return self._zip if self._zip and name in self._zip.names else None

    def _path_of(self, name: str) -> str:
        """Return where a file is, for messages."""
        return f"{self.name}:{name}" if self._zip_with(name) else str(self._folder / name)

    def _images_path(self, split: Split) -> str:
        """Return where a split's images are, for messages."""
        archive = self.task.archive_name(split)
        return self._path_of(archive if self._has(archive) else split)

    def _open(self, name: str) -> AbstractContextManager[BinaryIO]:
        zipped = self._zip_with(name)
        return zipped.open(name) if zipped else (self._folder / name).open("rb")

    def _csv(self, name: str) -> bytes:
        """Return the bytes of a CSV. A CSV has no checksum but that of a zip around it, which is checked."""
        if not self._has(name):
            raise InputError(f"{self._folder} has images but no {name}; it comes with the competition's download")
        if zipped := self._zip_with(name):
            data = zipped.read(name, MAX_CSV + 1)
        else:
            with (self._folder / name).open("rb") as file:
                data = file.read(MAX_CSV + 1)
        if len(data) > MAX_CSV:
            raise InputError(
                f"{self._path_of(name)} has more than {MAX_CSV:,} bytes, expected a list of ids and labels"
            )
        return data

    def _png_names(self, split: Split) -> list[str]:
        if not (self._folder / split).is_dir():
            raise InputError(
                f"{self._folder} has neither {self.task.archive_name(split)} nor a folder {split}/ (nor either in "
                f"{self.task.zip_name}); it comes with the competition's download"
            )
        entries = [entry for entry in os.scandir(self._folder / split) if entry.name.endswith(".png")]
        for entry in entries:
            if not entry.is_file():
                raise InputError(f"{entry.path} is not a file; extract it again")
        return [entry.name for entry in entries]


def _parse_id(pattern: re.Pattern[str], split: Split, name: str) -> int:
    match = pattern.fullmatch(name)
    if not match:
        raise InputError(f"the images of {split} contain {name!r}, expected names such as {split}/1.png")
    return int(match[1])
