"""A .7z archive -> its members, one after the other, without writing a file.

LZMA and LZMA2 streams go through the standard library's decoder in large pieces, about three times faster than py7zr's
extraction. Any other compression is left to py7zr. Both run ahead in threads, one per block (7-Zip's "folder").
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import BinaryIO

import py7zr
from py7zr.io import Py7zBytesIO, WriterFactory

from pipeline.cores import available_cores
from pipeline.data.prefetch import CancelledError, Put, prefetch
from pipeline.data.seven_zip_blocks import Block, Member
from pipeline.data.seven_zip_header import read_header
from pipeline.errors import InputError

Content = tuple[str, bytes]
"""Name and bytes of a member."""
Job = Callable[[Put[list[Content]]], None]

READ_SIZE = 1 << 20  # bytes
MAX_MEMBER = 1 << 20  # bytes; a larger member is not one of the competition's small images


class SevenZipReader:
    """One archive. `open_file` opens it, once per thread. Every error is an InputError that names the archive."""

    def __init__(self, open_file: Callable[[], AbstractContextManager[BinaryIO]], name: str) -> None:
        self._open, self._name = open_file, name
        try:
            with open_file() as file:
                self._blocks, empty = read_header(file)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        except Exception as error:
            raise self._invalid(error) from None
        self._members = [member for block in self._blocks for member in block.members]
        for member in (*empty, *self._members):
            if not member.is_plain or not 0 < member.size <= MAX_MEMBER:
                raise InputError(
                    f"{name} contains {member.name!r} with {member.size} bytes{'' if member.is_plain else ' or a link'}"
                    f", expected images of 1 to {MAX_MEMBER} bytes; this is not the competition's archive, "
                    "download it again"
                )

    def names(self) -> list[str]:
        """Return the names of the members without decoding them."""
        return [member.name for member in self._members]

    @contextmanager
    def read(self) -> Iterator[Iterator[Content]]:
        """Read ahead while the block runs, which gets name and bytes of each member, checked by its CRC-32.

        The members come in the archive's order if it is one block.
        """
        is_lzma = all(block.is_lzma for block in self._blocks)
        jobs: list[Job] = [partial(self._decode, b) for b in self._blocks] if is_lzma else [self._extract]
        with prefetch([partial(self._with_clear_errors, job) for job in jobs], available_cores()) as pieces:
            yield (member for members in pieces for member in members)

    def _with_clear_errors(self, job: Job, put: Put[list[Content]]) -> None:
        try:
            job(put)
        except (InputError, CancelledError):
            raise
        except Exception as error:
            # Corrupted bytes make py7zr raise errors of any type, from struct.error to IndexError.
            raise self._invalid(error) from None

    def _decode(self, block: Block, put: Put[list[Content]]) -> None:
        """Decode a block of LZMA and put its members."""
        with self._open() as file:
            buffer, remaining = b"", iter(block.members)
            member, ready = next(remaining, None), []
            for piece in decode_stream(file, block):
                buffer, start = buffer + piece, 0
                while member is not None and start + member.size <= len(buffer):
                    data = buffer[start : start + member.size]
                    self._check_crc(member, data)
                    ready.append((member.name, data))
                    start += member.size
                    member = next(remaining, None)
                buffer = buffer[start:]
                put(ready)
                ready = []
                if member is None:
                    return
        if member is not None:
            raise InputError(f"{self._name} ends within {member.name}; it is truncated, download it again")

    def _check_crc(self, member: Member, data: bytes) -> None:
        if member.crc is not None and zlib.crc32(data) != member.crc:
            raise InputError(f"{self._name}: wrong checksum of {member.name}; the file is corrupted, download it again")

    def _extract(self, put: Put[list[Content]]) -> None:
        """Extract all members by py7zr, which checks their CRC-32 itself."""
        with self._open() as file, py7zr.SevenZipFile(file) as archive:
            archive.extractall(factory=_StreamingFactory(put))

    def _invalid(self, error: Exception) -> InputError:
        cause = f"{type(error).__name__}: {str(error)[:120]}"
        return InputError(
            f"{self._name} is not a valid .7z archive ({cause}); it is corrupted or truncated, download it again"
        )


class _StreamingFactory(WriterFactory):
    """Creates the files to which py7zr writes the members, which put each member when it is complete."""

    def __init__(self, put: Put[list[Content]]) -> None:
        self._put = put

    def create(self, filename: str) -> Py7zBytesIO:
        return _StreamingMember(filename, self._put)


class _StreamingMember(Py7zBytesIO):
    def __init__(self, filename: str, put: Put[list[Content]]) -> None:
        super().__init__(filename, MAX_MEMBER)
        self._put = put

    def close(self) -> None:
        """Put the member and free its memory: py7zr keeps this object until the end."""
        self._put([(self.filename, self._buffer.getvalue())])
        self._buffer.close()


def decode_stream(file: BinaryIO, block: Block) -> Iterator[bytes]:
    """Yield the decoded bytes of a block of LZMA in pieces of a few MB."""
    decoder, size = block.decoder(), block.packed_size
    file.seek(block.position)
    while size and not decoder.eof:
        packed = file.read(min(READ_SIZE, size))
        if not packed:
            return
        size -= len(packed)
        data = decoder.decompress(packed, max_length=4 * READ_SIZE)
        while data:
            yield data
            data = b"" if decoder.needs_input or decoder.eof else decoder.decompress(b"", max_length=4 * READ_SIZE)
