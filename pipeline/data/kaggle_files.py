"""Kaggle's files in any of their forms -> ids, encoded images and labels."""

import io
import os
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np

from pipeline.data.prefetch import Put, prefetch
from pipeline.data.archive import MAX_MEMBER, SevenZip
from pipeline.task import COMPETITION, SAMPLE_SUBMISSION_CSV, TRAIN_LABELS_CSV, ZIP_NAME, Ids, Split
from pipeline.data.labels import Labels, parse_ids, parse_labels
from pipeline.data.decode import decode_png
from pipeline.errors import InputError

CHUNK = 500  # files that a thread reads at a time
MAX_CSV = 1 << 25  # bytes; that of 300,000 ids has 5 MB
MAX_DIRECTORY = 1 << 20  # bytes of a zip's list of members; the competition's has four
LOCAL_HEADER = 30  # bytes before a member's name in a zip; the last four are the lengths of name and extra field


class KaggleFiles:
    """The whole zip, the archives unpacked from it, or the folders unpacked from those."""

    decode = staticmethod(decode_png)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._zip = folder / ZIP_NAME
        self.name = str(self._zip if self._zip.exists() else folder)
        self._archives: dict[Split, SevenZip] = {}

    @cached_property
    def _zipped_names(self) -> list[str]:
        if not self._zip.exists():
            return []
        try:
            with self._zip.open("rb") as file, zipfile.ZipFile(_BoundedReader(file)) as archive:
                names = archive.namelist()
        except InputError as error:
            raise InputError(f"{self._zip} {error}") from None
        except Exception as error:
            with self._zip.open("rb") as file:
                begins = file.read(64).lstrip()
            if begins.startswith(b"<"):
                raise InputError(
                    f"{self._zip} is a web page, not a zip: the download was refused. Accept the rules on "
                    f"kaggle.com/c/{COMPETITION} and download it again"
                ) from None
            raise InputError(
                f"{self._zip} is no whole zip ({error}); the download was cut off or damaged, download it again"
            ) from None
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if repeated:
            raise InputError(f"{self._zip} holds {repeated[0]!r} more than once; download it again")
        return names

    def ids(self, split: Split) -> Ids:
        """Return the ids from the names in the archive or folder."""
        if self._has(f"{split}.7z"):
            names = self._archive(split).names()
        else:
            names = [f"{split}/{path}" for path in self._png_names(split)]
        ids = np.array([_id_of(name, split) for name in names], dtype=np.int64)
        if not len(ids):
            raise InputError(f"{self._named(split)} holds no images, expected {split}/1.png and more")
        ids.sort()
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise InputError(f"{self._named(split)} holds the image {split}/{repeated[0]}.png more than once")
        self._check_complete(split, ids)
        return ids

    def read(self, split: Split) -> Iterator[tuple[int, bytes]]:
        """Yield ids and PNGs from the archive or folder."""
        if self._has(f"{split}.7z"):
            for name, data in self._archive(split).read():
                yield _id_of(name, split), data
        else:
            names = self._png_names(split)
            chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
            jobs = [partial(self._read_pngs, split, chunk) for chunk in chunks]
            for images in prefetch(jobs, joblib.cpu_count()):
                yield from images

    def labels(self) -> Labels:
        """Return trainLabels.csv."""
        return parse_labels(self._csv(TRAIN_LABELS_CSV), self._named(TRAIN_LABELS_CSV))

    def test_labels(self) -> None:
        """Kaggle keeps them."""

    def fingerprint(self, split: Split) -> dict[str, Any]:
        """Describe the zip, the archive, or the folder (by its number of files)."""
        archive = f"{split}.7z"
        path = self._zip if archive in self._zipped_names else self._folder / (archive if self._has(archive) else split)
        status = path.stat()
        size = status.st_size if path.is_file() else len(self._png_names(split))
        return {"name": path.name, "size": size, "mtime_ns": status.st_mtime_ns}

    def _check_complete(self, split: Split, ids: Ids) -> None:
        """The test ids are those of sampleSubmission.csv, or 1 to N where it is missing."""
        if split == "train":
            return
        if self._has(SAMPLE_SUBMISSION_CSV):
            expected = parse_ids(self._csv(SAMPLE_SUBMISSION_CSV), self._named(SAMPLE_SUBMISSION_CSV))
        else:
            expected = np.arange(1, ids[-1] + 1)
        for wrong, text in ((np.setdiff1d(expected, ids), "misses"), (np.setdiff1d(ids, expected), "has the foreign")):
            if len(wrong):
                raise InputError(
                    f"{self._named(split)} {text} image {split}/{wrong[0]}.png ({len(wrong)} in all), "
                    f"expected {len(expected)} images; download or unpack it again"
                )

    def _archive(self, split: Split) -> SevenZip:
        """Return an archive whose header is read once: that of the test images takes seconds."""
        if split not in self._archives:
            self._archives[split] = SevenZip(partial(self._open, f"{split}.7z"), self._named(f"{split}.7z"))
        return self._archives[split]

    def _read_pngs(self, split: Split, names: list[str], put: Put[list[tuple[int, bytes]]]) -> None:
        images = []
        for name in names:
            path = self._folder / split / name
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_MEMBER + 1)
            except OSError as error:
                raise InputError(f"{path} can't be read: {error.strerror}; unpack it again") from None
            if len(data) > MAX_MEMBER:
                raise InputError(f"{path} has more than {MAX_MEMBER:,} bytes, expected an image; unpack it again")
            images.append((_id_of(f"{split}/{name}", split), data))
        put(images)

    def _has(self, name: str) -> bool:
        return name in self._zipped_names or (self._folder / name).is_file()

    def _named(self, name: str) -> str:
        inside = f"{self._zip}:{name}"
        beside = self._folder / name
        return inside if name in self._zipped_names or f"{name}.7z" in self._zipped_names else str(beside)

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        if name not in self._zipped_names:
            with (self._folder / name).open("rb") as file:
                yield file
            return
        with ExitStack() as opened:
            with self._reading_zip(name):
                archive = opened.enter_context(zipfile.ZipFile(self._zip))
                file = opened.enter_context(archive.open(name))  # type: ignore[arg-type]
                if archive.getinfo(name).compress_type == zipfile.ZIP_STORED:
                    whole = opened.enter_context(self._zip.open("rb"))
                    file = io.BufferedReader(_StoredZipMember(whole, archive.getinfo(name)))
            yield file

    @contextmanager
    def _reading_zip(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Damaged bytes make zipfile raise whatever they happen to hit, from zlib.error to OSError.
            raise InputError(f"{self._zip}: {name} is damaged ({error}); download it again") from None

    def _csv(self, name: str) -> bytes:
        if not self._has(name):
            raise InputError(f"{self._folder} has images but no {name}; it comes with the competition's download")
        if name in self._zipped_names:
            # By zipfile's own reader, which checks the checksum: a CSV has no other.
            with self._reading_zip(name), zipfile.ZipFile(self._zip) as archive, archive.open(name) as member:
                data = member.read(MAX_CSV + 1)
        else:
            with (self._folder / name).open("rb") as file:
                data = file.read(MAX_CSV + 1)
        if len(data) > MAX_CSV:
            raise InputError(f"{self._named(name)} has more than {MAX_CSV:,} bytes, expected a list of ids and labels")
        return data

    def _png_names(self, split: Split) -> list[str]:
        if not (self._folder / split).is_dir():
            raise InputError(
                f"{self._folder} has neither {split}.7z nor a folder {split}/ (nor either in {ZIP_NAME}); "
                "it comes with the competition's download"
            )
        entries = [entry for entry in os.scandir(self._folder / split) if entry.name.endswith(".png")]
        for entry in entries:
            if not entry.is_file():
                raise InputError(f"{entry.path} is no file; unpack it again")
        return [entry.name for entry in entries]


class _BoundedReader(io.RawIOBase):
    """A file that refuses large reads: zipfile takes the whole list of members at once, however long it says it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(MAX_DIRECTORY + 1 if size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise InputError(
                f"has a list of members of more than {MAX_DIRECTORY:,} bytes, expected that of four; download it again"
            )
        return data


class _StoredZipMember(io.RawIOBase):
    """A member that stands in a zip as it is: it jumps, where zipfile's own reader reads all that lies between."""

    def __init__(self, whole: BinaryIO, member: zipfile.ZipInfo) -> None:
        self._whole, self._size, self._position = whole, member.file_size, 0
        whole.seek(member.header_offset + LOCAL_HEADER - 4)
        self._start = member.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", whole.read(4)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)[: max(0, self._size - self._position)]
        self._whole.seek(self._start + self._position)
        data = self._whole.read(len(room))
        room[: len(data)] = data
        self._position += len(data)
        return len(data)


def _id_of(name: str, split: Split) -> int:
    match = re.fullmatch(rf"{split}/([1-9][0-9]{{0,8}})\.png", name)
    if not match:
        raise InputError(f"the images of {split} hold {name!r}, expected names such as {split}/1.png")
    return int(match[1])
