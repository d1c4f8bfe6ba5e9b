"""A .7z file -> its members, one after the other, without writing a file.

The layout comes from py7zr's header parser; LZMA and LZMA2 bytes go through the standard library's decoder in large
pieces, which is about three times faster than py7zr's extraction. Any other compression is left to py7zr. All of it
runs ahead in threads, one for each block (7-Zip's "folder") that is decoded at the time.
"""

import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import Any, BinaryIO

import joblib
import py7zr
from py7zr.io import Py7zBytesIO, WriterFactory

from pipeline.competition.ahead import Put, run_ahead
from pipeline.errors import InputError

Member = tuple[str, bytes]
Job = Callable[[Put[list[Member]]], None]

PIECE = 1 << 20
MAX_MEMBER = 1 << 20  # a 32x32 image can't be larger; a member that claims more is an attack or another file
SIGNATURE_HEADER = 32  # bytes before the packed streams
LZMA1, LZMA2 = b"\x03\x01\x01", b"!"


class SevenZip:
    """One archive. `open_file` opens it anew, once for each thread. Every error is an InputError that names it."""

    def __init__(self, open_file: Callable[[], AbstractContextManager[BinaryIO]], name: str) -> None:
        self._open, self._name = open_file, name
        try:
            with open_file() as file, py7zr.SevenZipFile(file) as archive:
                self._members = [f for f in archive.files if not f.is_directory]
                self._streams = archive.header.main_streams
        except InputError:
            raise
        except Exception as error:
            # A damaged header makes py7zr raise whatever its bytes happen to hit, from struct.error to IndexError.
            raise InputError(self._broken(error)) from None
        for member in self._members:
            if member.is_symlink or member.emptystream or not 0 < member.uncompressed <= MAX_MEMBER:
                raise InputError(
                    f"{name} holds {member.filename!r} with {member.uncompressed} bytes, expected images of 1 to "
                    f"{MAX_MEMBER} bytes; this is not the competition's archive, download it again"
                )

    def names(self) -> list[str]:
        """Return the members' names without decoding them."""
        return [str(member.filename) for member in self._members]

    def read(self) -> Iterator[Member]:
        """Yield each member's name and bytes, checked by their CRC, in the archive's order if it is one block."""
        try:
            jobs: list[Job] = self._lzma_blocks() if self._is_lzma() else [self._extract]
            for members in run_ahead(jobs, joblib.cpu_count()):
                yield from members
        except InputError:
            raise
        except Exception as error:
            raise InputError(self._broken(error)) from None

    def _is_lzma(self) -> bool:
        folders = self._streams.unpackinfo.folders
        return all(len(f.coders) == 1 and f.coders[0]["method"] in (LZMA1, LZMA2) for f in folders)

    def _lzma_blocks(self) -> list[Job]:
        """Return for each block a job that decodes it and hands on its members, many at a time."""
        streams = self._streams
        position = SIGNATURE_HEADER + streams.packinfo.packpos
        in_folders = groupby(self._members, key=lambda member: id(member.folder))
        jobs: list[Job] = []
        for packed_size, folder, (_, members) in zip(
            streams.packinfo.packsizes, streams.unpackinfo.folders, in_folders, strict=True
        ):
            jobs.append(partial(self._decode_block, folder.coders[0], list(members), position, packed_size))
            position += packed_size
        return jobs

    def _decode_block(
        self, coder: dict[str, Any], members: list[Any], position: int, packed_size: int, put: Put[list[Member]]
    ) -> None:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma_filter(coder)])
        with self._open() as file:
            buffer, waiting = b"", iter(members)
            member, ready = next(waiting, None), []
            for piece in decode_stream(file, position, packed_size, decoder):
                buffer, place = buffer + piece, 0
                while member is not None and place + member.uncompressed <= len(buffer):
                    data = buffer[place : place + member.uncompressed]
                    self._check_sum(member, data)
                    ready.append((str(member.filename), data))
                    place += member.uncompressed
                    member = next(waiting, None)
                buffer = buffer[place:]
                put(ready)
                ready = []
        if member is not None:
            raise InputError(f"{self._name} ends within {member.filename}; it is truncated, download it again")

    def _check_sum(self, member: Any, data: bytes) -> None:
        if member.crc32 is not None and zlib.crc32(data) != member.crc32:
            raise InputError(
                f"{self._name}: {member.filename} has a wrong checksum; the file is damaged, download it again"
            )

    def _extract(self, put: Put[list[Member]]) -> None:
        """Let py7zr do it; it checks the sums itself."""
        with self._open() as file, py7zr.SevenZipFile(file) as archive:
            archive.extractall(factory=_Handing(put))

    def _broken(self, error: Exception) -> str:
        kind = type(error).__name__
        words = str(error)[:120]
        return f"{self._name} is no whole .7z archive ({kind}: {words}); it is damaged or truncated, download it again"


class _Handing(WriterFactory):
    """Takes members from py7zr and hands each on when it is complete."""

    def __init__(self, put: Put[list[Member]]) -> None:
        self._put = put

    def create(self, filename: str) -> Py7zBytesIO:
        return _Handed(filename, self._put)


class _Handed(Py7zBytesIO):
    def __init__(self, filename: str, put: Put[list[Member]]) -> None:
        super().__init__(filename, MAX_MEMBER)
        self._put = put

    def close(self) -> None:
        """Hand it on, and keep nothing: py7zr keeps this object until the end."""
        self._put([(self.filename, self._buffer.getvalue())])
        self._buffer.close()


def decode_stream(file: BinaryIO, position: int, size: int, decoder: lzma.LZMADecompressor) -> Iterator[bytes]:
    """Yield the bytes of a packed stream in pieces of a few MB."""
    file.seek(position)
    while size and not decoder.eof:
        packed = file.read(min(PIECE, size))
        if not packed:
            return
        size -= len(packed)
        data = decoder.decompress(packed, max_length=4 * PIECE)
        while data:
            yield data
            data = b"" if decoder.needs_input or decoder.eof else decoder.decompress(b"", max_length=4 * PIECE)


def lzma_filter(coder: dict[str, Any]) -> dict[str, Any]:
    """Read a coder's properties (7-Zip's Methods.txt; lzma's own parser of them is private)."""
    properties = coder["properties"]
    if coder["method"] == LZMA2:
        bits = properties[0]
        return {"id": lzma.FILTER_LZMA2, "dict_size": (2 | (bits & 1)) << (bits // 2 + 11)}
    rest, lc = divmod(properties[0], 9)
    pb, lp = divmod(rest, 5)
    return {
        "id": lzma.FILTER_LZMA1,
        "dict_size": int.from_bytes(properties[1:5], "little"),
        "lc": lc,
        "lp": lp,
        "pb": pb,
    }
