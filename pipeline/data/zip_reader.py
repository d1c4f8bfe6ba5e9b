"""A zip file from elsewhere -> the names and bytes of its members, with limits for what it claims."""

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.advice import download_again
from pipeline.data.paths import is_clutter
from pipeline.data.read_errors import archive_errors
from pipeline.errors import InputError
from pipeline.task import Task

MAX_DIRECTORY = 1 << 20  # bytes of a zip's list of members; a competition's has a few members
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of the name, which follows, and of the extra field
SUPPORTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
# PKWARE's APPNOTE.TXT, 4.4.5
METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 10: "PKWARE Implode", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
IS_ENCRYPTED, AES = 0x1, 99  # a flag; the method of WinZip's encryption


class ZipReader:
    """One zip file of a task. Every error is an InputError that names the file."""

    def __init__(self, path: Path, task: Task) -> None:
        self.path, self._task = path, task
        self._again = f"download it again: {download_again(path.parent)}"

    @property
    def names(self) -> Collection[str]:
        """Names of the members; empty if there are too many.

        If all of the task's files are in one folder of the zip, their names are without it.
        """
        return self._paths.keys()

    @cached_property
    def members(self) -> list[str] | None:
        """Paths of the members, without those that macOS and Windows add; None if there are too many."""
        if self.path.with_suffix(".z01").exists():
            raise InputError(
                f"{self.path} is one part of a split zip; unzip it to a new folder with 7-Zip, which joins the parts, "
                "and give that folder with --input"
            )
        try:
            with archive_errors(self.path), self.path.open("rb") as file:
                paths = _list_members(file)
        except InputError:
            raise
        except NotImplementedError as error:
            raise self._unsupported(str(error)) from None
        except Exception as error:
            # Corrupted bytes make zipfile raise errors of any type.
            raise self._invalid(error) from None
        if paths is None:
            return None
        duplicates = [path for path, count in Counter(paths).items() if count > 1]
        if duplicates:
            raise InputError(f"{self.path} contains {duplicates[0]!r} more than once; {self._again}")
        return [path for path in paths if not path.endswith("/") and not is_clutter(path)]

    def read(self, name: str, max_size: int) -> bytes:
        """Return at most so many bytes of a member. zipfile checks the checksum of one that is read to its end."""
        with (
            self._name_errors(name),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self._member(archive, name)) as file,
        ):
            return file.read(max_size)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a member. It is seekable at no cost if it is stored without compression; no checksum is checked."""
        with ExitStack() as stack:
            with self._name_errors(name):
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                member = self._member(archive, name)
                file: BinaryIO = stack.enter_context(archive.open(member))  # type: ignore[assignment]
                if member.compress_type == zipfile.ZIP_STORED:
                    zip_file = stack.enter_context(self.path.open("rb"))
                    file = io.BufferedReader(_StoredZipMember(zip_file, member))
            yield file

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Return the path of each member by its name."""
        return _without_folder(self.members or [], self._task)

    def _member(self, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
        """Raises InputError for a method that is not supported."""
        member = archive.getinfo(self._paths[name])
        if member.flag_bits & IS_ENCRYPTED or member.compress_type == AES:
            raise self._unsupported(f"{name} is encrypted with a password")
        if member.compress_type not in SUPPORTED:
            method = METHODS.get(member.compress_type, f"method {member.compress_type}")
            raise self._unsupported(f"{name} is compressed with {method}")
        return member

    @contextmanager
    def _name_errors(self, name: str) -> Iterator[None]:
        try:
            with archive_errors(self.path):
                yield
        except InputError:
            raise
        except NotImplementedError as error:
            raise self._unsupported(f"{name}: {error}") from None
        except Exception as error:
            # Corrupted bytes make zipfile raise errors of any type, from zlib.error to OSError.
            raise InputError(f"{self.path}: {name} is corrupted ({error}); {self._again}") from None

    def _unsupported(self, cause: str) -> InputError:
        return InputError(
            f"{self.path}: {cause}, which is not supported; unzip it to a new folder with another program, and give "
            "that folder with --input"
        )

    def _invalid(self, error: Exception) -> InputError:
        with self.path.open("rb") as file:
            start = file.read(64).lstrip()
        if start.startswith(b"<"):
            return InputError(
                f"{self.path} is a web page, not a zip: the download was refused. Accept the rules on "
                f"{self._task.url} and {self._again}"
            )
        return InputError(
            f"{self.path} is not a valid zip file ({error}); the download was truncated or corrupted, {self._again}"
        )


def _list_members(file: BinaryIO) -> list[str] | None:
    """Return the paths of the members, None if there are too many."""
    try:
        with zipfile.ZipFile(_BoundedReader(file)) as archive:
            return archive.namelist()
    except _TooLargeError:
        return None


def _without_folder(paths: list[str], task: Task) -> dict[str, str]:
    """Return the path of each member by its name, without the folder in which all of the task's files are."""
    expected = {task.train_archive, task.test_archive, task.train_labels_csv, task.sample_submission_csv}
    folders = {folder for folder, _, name in (path.rpartition("/") for path in paths) if name in expected}
    folder = folders.pop() if len(folders) == 1 else ""
    if not folder or any(part in ("", ".", "..") for part in folder.split("/")):
        return {path: path for path in paths}
    return {path.removeprefix(f"{folder}/"): path for path in paths if path.startswith(f"{folder}/")}


class _TooLargeError(Exception):
    """A list of members above the limit."""


class _BoundedReader(io.RawIOBase):
    """A file that rejects large reads: zipfile reads the whole list of members at once, whatever size it claims."""

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
            raise _TooLargeError
        return data


class _StoredZipMember(io.RawIOBase):
    """A member stored without compression. Seeking is free; zipfile's own reader reads all the bytes in between."""

    def __init__(self, zip_file: BinaryIO, member: zipfile.ZipInfo) -> None:
        self._zip_file, self._size, self._position = zip_file, member.file_size, 0
        zip_file.seek(member.header_offset)
        _, *lengths = LOCAL_HEADER.unpack(zip_file.read(LOCAL_HEADER.size))
        self._start = member.header_offset + LOCAL_HEADER.size + sum(lengths)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer)[: max(0, self._size - self._position)]
        self._zip_file.seek(self._start + self._position)
        data = self._zip_file.read(len(target))
        target[: len(data)] = data
        self._position += len(data)
        return len(data)
