"""A .7z file -> its members, one after the other, without writing a file.

LZMA and LZMA2 bytes go through the standard library's decoder in large pieces, which is about three times faster than
py7zr's extraction. Any other compression is left to py7zr. All of it runs ahead in threads, one for each block (7-Zip's
"folder") that is decoded at the time.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import BinaryIO

import joblib
import py7zr
from py7zr.io import Py7zBytesIO, WriterFactory

from pipeline.data.prefetch import Put, prefetch
from pipeline.data.seven_zip_header import Block, Member, read_header
from pipeline.errors import InputError

Content = tuple[str, bytes]
Job = Callable[[Put[list[Content]]], None]

PIECE = 1 << 20
MAX_MEMBER = 1 << 20  # a 32x32 image can't be larger; a member that claims more is an attack or another file


class SevenZip:
    """One archive. `open_file` opens it anew, once for each thread. Every error is an InputError that names it."""

    def __init__(self, open_file: Callable[[], AbstractContextManager[BinaryIO]], name: str) -> None:
        self._open, self._name = open_file, name
        try:
            with open_file() as file:
                self._blocks, empty = read_header(file)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        except Exception as error:
            raise InputError(self._broken(error)) from None
        self._members = [member for block in self._blocks for member in block.members]
        for member in (*empty, *self._members):
            if not member.is_plain or not 0 < member.size <= MAX_MEMBER:
                raise InputError(
                    f"{name} holds {member.name!r} with {member.size} bytes{'' if member.is_plain else ' or a link'}, "
                    f"expected images of 1 to {MAX_MEMBER} bytes; this is not the competition's archive, download it "
                    "again"
                )

    def names(self) -> list[str]:
        """Return the members' names without decoding them."""
        return [member.name for member in self._members]

    def read(self) -> Iterator[Content]:
        """Yield each member's name and bytes, checked by their CRC, in the archive's order if it is one block."""
        try:
            is_lzma = all(block.is_lzma for block in self._blocks)
            jobs: list[Job] = [partial(self._decode, b) for b in self._blocks] if is_lzma else [self._extract]
            for members in prefetch(jobs, joblib.cpu_count()):
                yield from members
        except InputError:
            raise
        except Exception as error:
            # Damaged bytes make py7zr raise whatever they happen to hit, from struct.error to IndexError.
            raise InputError(self._broken(error)) from None

    def _decode(self, block: Block, put: Put[list[Content]]) -> None:
        with self._open() as file:
            buffer, waiting = b"", iter(block.members)
            member, ready = next(waiting, None), []
            for piece in decode_stream(file, block):
                buffer, place = buffer + piece, 0
                while member is not None and place + member.size <= len(buffer):
                    data = buffer[place : place + member.size]
                    self._check_sum(member, data)
                    ready.append((member.name, data))
                    place += member.size
                    member = next(waiting, None)
                buffer = buffer[place:]
                put(ready)
                ready = []
                if member is None:
                    return
        if member is not None:
            raise InputError(f"{self._name} ends within {member.name}; it is truncated, download it again")

    def _check_sum(self, member: Member, data: bytes) -> None:
        if member.crc is not None and zlib.crc32(data) != member.crc:
            raise InputError(
                f"{self._name}: {member.name} has a wrong checksum; the file is damaged, download it again"
            )

    def _extract(self, put: Put[list[Content]]) -> None:
        """Let py7zr do it; it checks the sums itself."""
        with self._open() as file, py7zr.SevenZipFile(file) as archive:
            archive.extractall(factory=_StreamingFactory(put))

    def _broken(self, error: Exception) -> str:
        kind = type(error).__name__
        words = str(error)[:120]
        return f"{self._name} is no whole .7z archive ({kind}: {words}); it is damaged or truncated, download it again"


class _StreamingFactory(WriterFactory):
    """Takes members from py7zr and hands each on when it is complete."""

    def __init__(self, put: Put[list[Content]]) -> None:
        self._put = put

    def create(self, filename: str) -> Py7zBytesIO:
        return _StreamingMember(filename, self._put)


class _StreamingMember(Py7zBytesIO):
    def __init__(self, filename: str, put: Put[list[Content]]) -> None:
        super().__init__(filename, MAX_MEMBER)
        self._put = put

    def close(self) -> None:
        """Hand it on, and keep nothing: py7zr keeps this object until the end."""
        self._put([(self.filename, self._buffer.getvalue())])
        self._buffer.close()


def decode_stream(file: BinaryIO, block: Block) -> Iterator[bytes]:
    """Yield the bytes of a block of LZMA in pieces of a few MB."""
    decoder, size = block.decoder(), block.packed_size
    file.seek(block.position)
    while size and not decoder.eof:
        packed = file.read(min(PIECE, size))
        if not packed:
            return
        size -= len(packed)
        data = decoder.decompress(packed, max_length=4 * PIECE)
        while data:
            yield data
            data = b"" if decoder.needs_input or decoder.eof else decoder.decompress(b"", max_length=4 * PIECE)
