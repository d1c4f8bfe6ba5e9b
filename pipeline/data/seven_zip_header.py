"""The header of a .7z file -> its blocks and their members.

Source: 7-Zip's DOC/7zFormat.txt. Written here because a header comes from elsewhere and its counts may lie: each is
checked before memory is taken for it, where py7zr believes them. It is also three times faster.
"""

import lzma
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import BinaryIO, NamedTuple

import numpy as np

from pipeline.errors import InputError

SIGNATURE = b"7z\xbc\xaf\x27\x1c"
START = struct.Struct("<6s2xIQQI")  # signature, version; checksum of the rest; place, size and checksum of the header
LZMA1, LZMA2, AES = b"\x03\x01\x01", b"!", b"\x06\xf1\x07\x01"

MAX_HEADER = 1 << 26  # bytes; that of 300,000 images takes 11 MB
MAX_MEMBERS = 500_000
MAX_CODERS = 32  # 7-Zip's own limit
MAX_ENCODINGS = 4  # a header may be compressed, and that header again
MIN_DICTIONARY, MAX_DICTIONARY = 1 << 12, 1 << 29  # bytes; 7-Zip's strongest setting takes 2**28

_END, _HEADER, _ARCHIVE, _PACK, _UNPACK, _SUBSTREAMS = 0x00, 0x01, 0x02, 0x06, 0x07, 0x08
_SIZES, _CHECKSUMS, _FOLDER, _CODER_SIZES, _NUM_STREAMS = 0x09, 0x0A, 0x0B, 0x0C, 0x0D
_STREAMS, _FILES, _EMPTY_STREAM, _EMPTY_FILE, _NAMES, _ATTRIBUTES, _ENCODED = 0x04, 0x05, 0x0E, 0x0F, 0x11, 0x15, 0x17
_UNIX_MODE, _REPARSE_POINT = 0x8000, 0x400


class Member(NamedTuple):
    """A file in an archive; size in bytes, CRC-32 where it is told."""

    name: str
    size: int
    crc: int | None
    is_plain: bool = True
    """Whether it is a file with content, and no link."""


@dataclass(frozen=True)
class Block:
    """What is compressed as one stream (7-Zip's "folder"): its coders, where its bytes stand, how many come out."""

    coders: list[tuple[bytes, bytes]]
    """Method and properties of each."""
    position: int
    packed_size: int
    size: int
    members: list[Member]

    @property
    def is_lzma(self) -> bool:
        """Whether `decoder` can decode it."""
        return len(self.coders) == 1 and self.coders[0][0] in (LZMA1, LZMA2)

    def decoder(self) -> lzma.LZMADecompressor:
        """Return a decoder of its stream. Raises InputError for a dictionary that is too large."""
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(*self.coders[0], self.size)])


@dataclass(frozen=True)
class _Streams:
    """Blocks without names: the sizes and checksums of what is in each."""

    blocks: list[Block]
    sizes: list[list[int]]
    crcs: list[int | None]


def read_header(file: BinaryIO) -> tuple[list[Block], list[Member]]:
    """Return the blocks with their members, and the members without content. Raises ValueError for a broken header.

    Raises InputError for one that claims more than the competition's could.
    """
    start = file.read(START.size)
    if len(start) < START.size:
        raise ValueError(f"it has {len(start)} bytes")
    signature, start_crc, place, size, crc = START.unpack(start)
    if signature != SIGNATURE:
        raise ValueError(f"it begins with {start[:6]!r}")
    if zlib.crc32(start[12:]) != start_crc:
        raise ValueError("the checksum of its first bytes is wrong")
    if size == 0:
        return [], []
    data = _read_at(file, START.size + place, size, crc)
    for _ in range(MAX_ENCODINGS):
        reader = _Reader(data)
        kind = reader.byte()
        if kind == _HEADER:
            blocks, empty = _read_files(reader)
            _check_lock(blocks)
            return blocks, empty
        if kind != _ENCODED:
            raise ValueError(f"its header is of the unknown kind {kind}")
        data = _decode_header(file, _read_streams(reader))
    raise ValueError("its header is compressed too often")


def _read_at(file: BinaryIO, position: int, size: int, crc: int | None) -> bytes:
    _check_limit(size, MAX_HEADER, "a header of {:,} bytes")
    if file.seek(0, 2) < position + size:
        raise ValueError("it ends before its header")
    file.seek(position)
    data = file.read(size)
    if crc is not None and zlib.crc32(data) != crc:
        raise ValueError("the checksum of its header is wrong")
    return data


def _check_limit(found: int, limit: int, what: str) -> None:
    if found > limit:
        raise InputError(
            f"it claims {what.format(found)}, expected at most {limit:,}; this is not the competition's archive, "
            "download it again"
        )


def _check_lock(blocks: list[Block]) -> None:
    if any(method == AES for block in blocks for method, _ in block.coders):
        raise InputError("it is locked with a password; the competition's archive is not, download it again")


def _decode_header(file: BinaryIO, streams: _Streams) -> bytes:
    if len(streams.blocks) != 1:
        raise ValueError(f"its header has {len(streams.blocks)} blocks")
    (block,), (crc, *_) = streams.blocks, streams.crcs
    _check_lock(streams.blocks)
    _check_limit(block.size, MAX_HEADER, "a header of {:,} bytes")
    packed = _read_at(file, block.position, block.packed_size, None)
    if not block.is_lzma:
        raise ValueError("its header is not compressed by LZMA")
    data = block.decoder().decompress(packed, max_length=block.size)
    if len(data) != block.size or (crc is not None and zlib.crc32(data) != crc):
        raise ValueError("its compressed header is damaged")
    return data


class _Reader:
    """Bytes, read one after the other; no read goes beyond them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, size: int) -> bytes:
        data = self._data[self._place : self._place + size]
        if len(data) < size:
            raise ValueError("its header ends too soon")
        self._place += size
        return data

    def rest(self) -> bytes:
        return self._data[self._place :]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """Read a number of 1 to 9 bytes; the ones at the top of the first byte count the others."""
        first = self.byte()
        if first < 0x80:
            return first
        more = 8 - (first ^ 0xFF).bit_length()
        rest = int.from_bytes(self.take(more), "little")
        return rest | (first & (0x7F >> more)) << (8 * more)

    def count(self, limit: int = MAX_MEMBERS) -> int:
        number = self.number()
        _check_limit(number, limit, "{:,} members or parts")
        return number

    def bits(self, size: int) -> list[bool]:
        packed = np.frombuffer(self.take((size + 7) // 8), np.uint8)
        return np.unpackbits(packed)[:size].astype(bool).tolist()

    def flagged_bits(self, size: int) -> list[bool]:
        """Read bits, or one byte that says that all are set."""
        return [True] * size if self.byte() else self.bits(size)

    def crcs(self, size: int) -> list[int | None]:
        known = self.flagged_bits(size)
        values = iter(np.frombuffer(self.take(4 * sum(known)), "<u4").tolist())
        return [next(values) if is_known else None for is_known in known]

    def expect(self, kind: int) -> None:
        found = self.byte()
        if found != kind:
            raise ValueError(f"its header has {found} where {kind} is expected")


def _unknown_part(kind: int) -> ValueError:
    return ValueError(f"its header has the unknown part {kind}")


def _read_streams(reader: _Reader) -> _Streams:
    position, packed_sizes = 0, list[int]()
    blocks, crcs, streams = list[Block](), list[int | None](), None
    while (kind := reader.byte()) != _END:
        if kind == _PACK:
            position, packed_sizes = _read_packed(reader)
        elif kind == _UNPACK:
            blocks, crcs = _read_blocks(reader, position, packed_sizes)
        elif kind == _SUBSTREAMS:
            streams = _read_substreams(reader, blocks, crcs)
        else:
            raise _unknown_part(kind)
    return streams or _Streams(blocks, [[block.size] for block in blocks], crcs)


def _read_packed(reader: _Reader) -> tuple[int, list[int]]:
    position, count, sizes = START.size + reader.number(), reader.count(), list[int]()
    while (kind := reader.byte()) != _END:
        if kind == _SIZES:
            sizes = [reader.number() for _ in range(count)]
        elif kind == _CHECKSUMS:
            reader.crcs(count)
        else:
            raise _unknown_part(kind)
    return position, sizes


def _read_blocks(reader: _Reader, position: int, packed_sizes: list[int]) -> tuple[list[Block], list[int | None]]:
    reader.expect(_FOLDER)
    count = reader.count()
    if reader.byte():
        raise ValueError("its header stands elsewhere")
    found = [_read_coders(reader) for _ in range(count)]
    reader.expect(_CODER_SIZES)
    sizes = [[reader.number() for _ in coders][last] for coders, last, _ in found]
    crcs: list[int | None] = [None] * count
    if (kind := reader.byte()) == _CHECKSUMS:
        crcs, kind = reader.crcs(count), reader.byte()
    if kind != _END:
        raise _unknown_part(kind)
    packed = iter(zip(accumulate(packed_sizes, initial=position), packed_sizes, strict=False))
    blocks = []
    for (coders, _, num_packed), size in zip(found, sizes, strict=True):
        streams = list(islice(packed, num_packed))
        if len(streams) != num_packed or not streams:
            raise ValueError("its header misses a packed stream")
        blocks.append(Block(coders, *streams[0], size, []))
    return blocks, crcs


def _read_coders(reader: _Reader) -> tuple[list[tuple[bytes, bytes]], int, int]:
    """Return a block's coders, which of them has the final output, and the number of packed streams."""
    coders, num_in = [], 0
    for _ in range(reader.count(MAX_CODERS)):
        flags = reader.byte()
        method = reader.take(flags & 0x0F)
        if flags & 0x10:
            num_in += reader.count(MAX_CODERS)
            if reader.number() != 1:
                raise ValueError("its header has a coder with several outputs")
        else:
            num_in += 1
        coders.append((method, reader.take(reader.count(MAX_HEADER)) if flags & 0x20 else b""))
    if not coders:
        raise ValueError("its header has a block without a coder")
    bound = [(reader.number(), reader.number())[1] for _ in range(len(coders) - 1)]
    num_packed = num_in - len(bound)
    if num_packed > 1:
        for _ in range(num_packed):
            reader.number()
    free = [place for place in range(len(coders)) if place not in bound]
    if len(free) != 1:
        raise ValueError("the coders of a block do not fit together")
    return coders, free[0], num_packed


def _read_substreams(reader: _Reader, blocks: list[Block], block_crcs: list[int | None]) -> _Streams:
    kind, counts = reader.byte(), [1] * len(blocks)
    if kind == _NUM_STREAMS:
        counts, kind = [reader.count() for _ in blocks], reader.byte()
    _check_limit(sum(counts), MAX_MEMBERS, "{:,} members")
    has_sizes = kind == _SIZES
    sizes = [
        _with_last([reader.number() for _ in range(count - 1)] if has_sizes else [], count, block.size)
        for block, count in zip(blocks, counts, strict=True)
    ]
    if has_sizes:
        kind = reader.byte()
    # A block of one member whose checksum stands with the block has none here.
    is_known = [crc is not None and count == 1 for crc, count in zip(block_crcs, counts, strict=True)]
    untold = sum(count for count, known in zip(counts, is_known, strict=True) if not known)
    told: Iterator[int | None] = iter([None] * untold)
    if kind == _CHECKSUMS:
        told, kind = iter(reader.crcs(untold)), reader.byte()
    if kind != _END:
        raise _unknown_part(kind)
    crcs: list[int | None] = []
    for block_crc, count, known in zip(block_crcs, counts, is_known, strict=True):
        crcs += [block_crc] if known else islice(told, count)
    return _Streams(blocks, sizes, crcs)


def _with_last(sizes: list[int], count: int, total: int) -> list[int]:
    """Add the last size, which is what the others leave."""
    if count == 0:
        return []
    if len(sizes) != count - 1 or sum(sizes) > total:
        raise ValueError("the sizes in its header do not fit together")
    return [*sizes, total - sum(sizes)]


def _read_files(reader: _Reader) -> tuple[list[Block], list[Member]]:
    streams = _Streams([], [], [])
    while (kind := reader.byte()) != _FILES:
        if kind == _END:
            return [], []
        if kind == _STREAMS:
            streams = _read_streams(reader)
        elif kind == _ARCHIVE:
            while reader.number() != _END:
                reader.take(reader.number())
        else:
            raise _unknown_part(kind)
    count = reader.count()
    names, is_empty, is_empty_file, is_link = list[str](), [False] * count, list[bool](), [False] * count
    while (kind := reader.number()) != _END:
        part = _Reader(reader.take(reader.number()))
        if kind == _EMPTY_STREAM:
            is_empty = part.bits(count)
        elif kind == _EMPTY_FILE:
            is_empty_file = part.bits(sum(is_empty))
        elif kind == _NAMES:
            names = _read_names(part, count)
        elif kind == _ATTRIBUTES:
            is_link = _read_links(part, count)
    if len(names) != count:
        raise ValueError(f"its header has {len(names)} names for {count} members")
    return _join(streams, names, is_empty, is_empty_file, is_link)


def _read_names(part: _Reader, count: int) -> list[str]:
    if part.byte():
        raise ValueError("its names stand elsewhere")
    text = part.rest().decode("utf-16-le")
    return text.split("\0", count)[:count] if text.count("\0") == count else []


def _read_links(part: _Reader, count: int) -> list[bool]:
    known = part.flagged_bits(count)
    if part.byte():
        raise ValueError("its attributes stand elsewhere")
    told = iter(np.frombuffer(part.take(4 * sum(known)), "<u4").tolist())
    values = [next(told) if is_known else 0 for is_known in known]
    return [bool(v & _REPARSE_POINT or (v & _UNIX_MODE and stat.S_ISLNK(v >> 16))) for v in values]


def _join(
    streams: _Streams, names: list[str], is_empty: list[bool], is_empty_file: list[bool], is_link: list[bool]
) -> tuple[list[Block], list[Member]]:
    """Give the streams, in their order, to the members that have content; folders fall away."""
    crcs = iter(streams.crcs)
    empty_files = iter(is_empty_file)
    full, empty = [], []
    for name, link, lacks_content in zip(names, is_link, is_empty, strict=True):
        if not lacks_content:
            full.append((name, link))
        elif next(empty_files, False):
            empty.append(Member(name, 0, None, is_plain=False))
    if len(full) != len(streams.crcs) or len(full) != sum(map(len, streams.sizes)):
        raise ValueError(f"its header has {len(full)} members with content and {len(streams.crcs)} streams")
    waiting = iter(full)
    for block, sizes in zip(streams.blocks, streams.sizes, strict=True):
        for size in sizes:
            name, link = next(waiting)
            block.members.append(Member(name, size, next(crcs), is_plain=not link))
    return streams.blocks, empty


def _lzma_filter(method: bytes, properties: bytes, size: int) -> dict[str, int]:
    """Read a coder's properties (7-Zip's Methods.txt; lzma's own parser of them is private)."""
    if len(properties) != (1 if method == LZMA2 else 5):
        raise ValueError("its coder has odd properties")
    if method == LZMA2:
        bits = properties[0]
        if bits > 40:
            raise ValueError("its coder has odd properties")
        settings = {"id": lzma.FILTER_LZMA2, "dict_size": (2 | (bits & 1)) << (bits // 2 + 11)}
    else:
        rest, lc = divmod(properties[0], 9)
        pb, lp = divmod(rest, 5)
        dictionary = int.from_bytes(properties[1:5], "little")
        settings = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}
    # The memory for the dictionary is taken at once, and no block looks back further than it is long.
    settings["dict_size"] = max(MIN_DICTIONARY, min(settings["dict_size"], size))
    _check_limit(settings["dict_size"], MAX_DICTIONARY, "a dictionary of {:,} bytes")
    return settings
