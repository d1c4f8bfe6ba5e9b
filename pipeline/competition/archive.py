"""A .7z file -> its members, one after the other, without writing a file.

The layout comes from py7zr's header parser; LZMA and LZMA2 bytes go through the standard library's decoder in large
pieces, which is about three times faster than py7zr's extraction. Any other compression is left to py7zr.
"""

import lzma
import zlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any, BinaryIO

import py7zr
from py7zr.exceptions import ArchiveError
from py7zr.io import BytesIOFactory

from pipeline.errors import InputError

PIECE = 1 << 20
MAX_MEMBER = 1 << 20  # a 32x32 image can't be larger; a member that claims more is an attack or another file
SIGNATURE_HEADER = 32  # bytes before the packed streams
LZMA1, LZMA2 = b"\x03\x01\x01", b"!"


class SevenZip:
    """One archive, open for reading. Every error is an InputError that names it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        try:
            self._archive = py7zr.SevenZipFile(file)
            self._members = [f for f in self._archive.files if not f.is_directory]
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

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield each member's name and bytes in the archive's order, checked by their CRC."""
        try:
            yield from self._read_lzma() if self._is_lzma() else self._read_any()
        except (ArchiveError, EOFError, OSError, ValueError, lzma.LZMAError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(self._broken(error)) from None

    def _is_lzma(self) -> bool:
        folders = self._archive.header.main_streams.unpackinfo.folders
        return all(len(f.coders) == 1 and f.coders[0]["method"] in (LZMA1, LZMA2) for f in folders)

    def _read_lzma(self) -> Iterator[tuple[str, bytes]]:
        streams = self._archive.header.main_streams
        position = SIGNATURE_HEADER + streams.packinfo.packpos
        in_folders = groupby(self._members, key=lambda member: id(member.folder))
        for packed_size, folder, (_, members) in zip(
            streams.packinfo.packsizes, streams.unpackinfo.folders, in_folders, strict=True
        ):
            decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(folder.coders[0])])
            yield from self._cut(members, _decode(self._file, position, packed_size, decoder))
            position += packed_size

    def _cut(self, members: Iterator[Any], pieces: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
        buffer = memoryview(b"")
        for member in members:
            size, name = member.uncompressed, member.filename
            while len(buffer) < size:
                piece = next(pieces, None)
                if piece is None:
                    raise InputError(f"{self._name} ends within {name}; it is truncated, download it again")
                buffer = memoryview(bytes(buffer) + piece)
            data, buffer = bytes(buffer[:size]), buffer[size:]
            if member.crc32 is not None and zlib.crc32(data) != member.crc32:
                raise InputError(f"{self._name}: {name} has a wrong checksum; the file is damaged, download it again")
            yield name, data

    def _read_any(self) -> Iterator[tuple[str, bytes]]:
        factory = BytesIOFactory(limit=MAX_MEMBER)
        self._archive.reset()
        self._archive.extractall(factory=factory)
        for member in self._members:
            product = factory.products[member.filename]
            product.seek(0)
            yield member.filename, product.read()

    def _broken(self, error: Exception) -> str:
        kind = type(error).__name__
        words = str(error)[:120]
        return f"{self._name} is no whole .7z archive ({kind}: {words}); it is damaged or truncated, download it again"


def _decode(file: BinaryIO, position: int, size: int, decoder: lzma.LZMADecompressor) -> Iterator[bytes]:
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


def _lzma_filter(coder: dict[str, Any]) -> dict[str, Any]:
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
