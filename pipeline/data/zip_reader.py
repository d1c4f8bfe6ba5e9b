"""A zip file from elsewhere -> the names and bytes of its members, with limits for what it claims."""

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import InputError

MAX_DIRECTORY = 1 << 20  # bytes of a zip's list of members; a competition's has a few members
LOCAL_HEADER_SIZE = 30  # bytes before a member's name; the last four are the lengths of name and extra field


class ZipReader:
    """One zip file, downloaded from `url`. Every error is an InputError that names the file."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self._url = path, url

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the members."""
        try:
            with self.path.open("rb") as file, zipfile.ZipFile(_BoundedReader(file)) as archive:
                names = archive.namelist()
        except InputError as error:
            raise InputError(f"{self.path} {error}") from None
        except Exception as error:
            # Corrupted bytes make zipfile raise errors of any type.
            raise self._invalid(error) from None
        duplicates = [name for name, count in Counter(names).items() if count > 1]
        if duplicates:
            raise InputError(f"{self.path} contains {duplicates[0]!r} more than once; download it again")
        return frozenset(names)

    def read(self, name: str, max_size: int) -> bytes:
        """Return at most so many bytes of a member. zipfile checks the checksum of one that is read to its end."""
        with self._name_errors(name), zipfile.ZipFile(self.path) as archive, archive.open(name) as member:
            return member.read(max_size)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a member. It is seekable at no cost if it is stored without compression; no checksum is checked."""
        with ExitStack() as stack:
            with self._name_errors(name):
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                file: BinaryIO = stack.enter_context(archive.open(name))  # type: ignore[assignment]
                if archive.getinfo(name).compress_type == zipfile.ZIP_STORED:
                    zip_file = stack.enter_context(self.path.open("rb"))
                    file = io.BufferedReader(_StoredZipMember(zip_file, archive.getinfo(name)))
            yield file

    @contextmanager
    def _name_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Corrupted bytes make zipfile raise errors of any type, from zlib.error to OSError.
            raise InputError(f"{self.path}: {name} is corrupted ({error}); download it again") from None

    def _invalid(self, error: Exception) -> InputError:
        with self.path.open("rb") as file:
            start = file.read(64).lstrip()
        if start.startswith(b"<"):
            return InputError(
                f"{self.path} is a web page, not a zip: the download was refused. Accept the rules on "
                f"{self._url} and download it again"
            )
        return InputError(
            f"{self.path} is not a valid zip file ({error}); the download was truncated or corrupted, download it again"
        )


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
            raise InputError(
                f"has a list of members of more than {MAX_DIRECTORY:,} bytes, expected a few members; download it again"
            )
        return data


class _StoredZipMember(io.RawIOBase):
    """A member stored without compression. Seeking is free; zipfile's own reader reads all the bytes in between."""

    def __init__(self, zip_file: BinaryIO, member: zipfile.ZipInfo) -> None:
        self._zip_file, self._size, self._position = zip_file, member.file_size, 0
        zip_file.seek(member.header_offset + LOCAL_HEADER_SIZE - 4)
        self._start = member.header_offset + LOCAL_HEADER_SIZE + sum(struct.unpack("<HH", zip_file.read(4)))

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
