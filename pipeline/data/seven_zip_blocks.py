"""The part of a .7z header that describes the compressed streams -> blocks, each with the sizes of its members."""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple

from pipeline.data.seven_zip_fields import MAX_HEADER, MAX_MEMBERS, FieldReader, check_limit, unknown_field

LZMA1, LZMA2 = b"\x03\x01\x01", b"!"
START_HEADER_SIZE = 32  # bytes; positions in a header count from there
MAX_CODERS = 32  # 7-Zip's own limit
MIN_DICTIONARY, MAX_DICTIONARY = 1 << 12, 1 << 29  # bytes; 7-Zip's highest level takes 2**28

_END, _PACK_INFO, _UNPACK_INFO, _SUBSTREAMS_INFO = 0x00, 0x06, 0x07, 0x08
_SIZES, _CRCS, _FOLDER, _UNPACK_SIZES, _NUM_SUBSTREAMS = 0x09, 0x0A, 0x0B, 0x0C, 0x0D


class Member(NamedTuple):
    """A file in an archive; size in bytes, CRC-32 where the header has it."""

    name: str
    size: int
    crc: int | None
    is_plain: bool = True
    """A file with content, not a link."""


@dataclass(frozen=True)
class Block:
    """Members compressed as one stream (7-Zip's "folder"): coders, position in the file, sizes in bytes."""

    coders: list[tuple[bytes, bytes]]
    """Method and properties of each coder, as in the header: those of compression first."""
    position: int
    packed_size: int
    size: int
    members: list[Member]
    is_chain: bool = True
    """Each coder gets the output of the one before it, the first one the block's only packed stream."""

    @property
    def is_lzma(self) -> bool:
        """Whether `decoder` can decode the block."""
        return len(self.coders) == 1 and self.coders[0][0] in (LZMA1, LZMA2)

    def decoder(self) -> lzma.LZMADecompressor:
        """Return a decoder of the stream. Raises LimitError if its dictionary is too large."""
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(*self.coders[0], self.size)])


@dataclass(frozen=True)
class Streams:
    """Blocks without names: sizes per block and CRC-32 of all members, in their order."""

    blocks: list[Block]
    sizes: list[list[int]]
    crcs: list[int | None]


def read_streams(reader: FieldReader) -> Streams:
    """Read the streams info. Raises ValueError if it is corrupted."""
    position, packed_sizes = 0, list[int]()
    blocks, crcs, streams = list[Block](), list[int | None](), None
    while (field := reader.byte()) != _END:
        if field == _PACK_INFO:
            position, packed_sizes = _read_pack_info(reader)
        elif field == _UNPACK_INFO:
            blocks, crcs = _read_unpack_info(reader, position, packed_sizes)
        elif field == _SUBSTREAMS_INFO:
            streams = _read_substreams_info(reader, blocks, crcs)
        else:
            raise unknown_field(field)
    return streams or Streams(blocks, [[block.size] for block in blocks], crcs)


def _read_pack_info(reader: FieldReader) -> tuple[int, list[int]]:
    """Return the position of the first packed stream and the sizes of all."""
    position, count, sizes = START_HEADER_SIZE + reader.number(), reader.count(), list[int]()
    while (field := reader.byte()) != _END:
        if field == _SIZES:
            sizes = [reader.number() for _ in range(count)]
        elif field == _CRCS:
            reader.crcs(count)
        else:
            raise unknown_field(field)
    return position, sizes


def _read_unpack_info(
    reader: FieldReader, position: int, packed_sizes: list[int]
) -> tuple[list[Block], list[int | None]]:
    """Return the blocks and the CRC-32 of each."""
    reader.expect(_FOLDER)
    count = reader.count()
    if reader.byte():
        raise ValueError("external data in the header is not supported")
    folders = [_read_coders(reader) for _ in range(count)]
    reader.expect(_UNPACK_SIZES)
    sizes = [[reader.number() for _ in coders][last] for coders, last, *_ in folders]
    crcs: list[int | None] = [None] * count
    if (field := reader.byte()) == _CRCS:
        crcs, field = reader.crcs(count), reader.byte()
    if field != _END:
        raise unknown_field(field)
    packed = iter(zip(accumulate(packed_sizes, initial=position), packed_sizes, strict=False))
    blocks = []
    for (coders, _, num_packed, is_chain), size in zip(folders, sizes, strict=True):
        streams = list(islice(packed, num_packed))
        if len(streams) != num_packed or not streams:
            raise ValueError("a packed stream is missing in the header")
        blocks.append(Block(coders, *streams[0], size, [], is_chain))
    return blocks, crcs


def _read_coders(reader: FieldReader) -> tuple[list[tuple[bytes, bytes]], int, int, bool]:
    """Return a block's coders, the index of the one with the final output, the number of packed streams, `is_chain`."""
    coders, num_inputs = [], 0
    for _ in range(reader.count(MAX_CODERS)):
        flags = reader.byte()
        method = reader.take(flags & 0x0F)
        if flags & 0x10:
            num_inputs += reader.count(MAX_CODERS)
            if reader.number() != 1:
                raise ValueError("a coder in the header has several outputs")
        else:
            num_inputs += 1
        coders.append((method, reader.take(reader.count(MAX_HEADER)) if flags & 0x20 else b""))
    if not coders:
        raise ValueError("a block in the header has no coder")
    bonds = [(reader.number(), reader.number()) for _ in range(len(coders) - 1)]
    bound_outputs = [output for _, output in bonds]
    num_packed = num_inputs - len(bonds)
    if num_packed > 1:
        for _ in range(num_packed):
            reader.number()
    final = [index for index in range(len(coders)) if index not in bound_outputs]
    if len(final) != 1:
        raise ValueError("the coders of a block do not match")
    is_chain = num_packed == 1 and sorted(bonds) == [(index, index - 1) for index in range(1, len(coders))]
    return coders, final[0], num_packed, is_chain


def _read_substreams_info(reader: FieldReader, blocks: list[Block], block_crcs: list[int | None]) -> Streams:
    """Return sizes and CRC-32 of the members of each block."""
    field, counts = reader.byte(), [1] * len(blocks)
    if field == _NUM_SUBSTREAMS:
        counts, field = [reader.count() for _ in blocks], reader.byte()
    check_limit(sum(counts), MAX_MEMBERS, "{:,} members")
    has_sizes = field == _SIZES
    sizes = [
        _complete_sizes([reader.number() for _ in range(count - 1)] if has_sizes else [], count, block.size)
        for block, count in zip(blocks, counts, strict=True)
    ]
    if has_sizes:
        field = reader.byte()
    # A block of a single member with a CRC-32 of its own has none here.
    is_known = [crc is not None and count == 1 for crc, count in zip(block_crcs, counts, strict=True)]
    num_unknown = sum(count for count, known in zip(counts, is_known, strict=True) if not known)
    member_crcs: Iterator[int | None] = iter([None] * num_unknown)
    if field == _CRCS:
        member_crcs, field = iter(reader.crcs(num_unknown)), reader.byte()
    if field != _END:
        raise unknown_field(field)
    crcs: list[int | None] = []
    for block_crc, count, known in zip(block_crcs, counts, is_known, strict=True):
        crcs += [block_crc] if known else islice(member_crcs, count)
    return Streams(blocks, sizes, crcs)


def _complete_sizes(sizes: list[int], count: int, total: int) -> list[int]:
    """Append the size of the last member, which the header leaves out: the rest of the block."""
    if count == 0:
        return []
    if len(sizes) != count - 1 or sum(sizes) > total:
        raise ValueError("the sizes in the header do not match")
    return [*sizes, total - sum(sizes)]


def _lzma_filter(method: bytes, properties: bytes, size: int) -> dict[str, int]:
    """Return the lzma module's filter for a coder's properties (7-Zip's Methods.txt; lzma's own parser is private)."""
    if len(properties) != (1 if method == LZMA2 else 5):
        raise ValueError("invalid properties of a coder")
    if method == LZMA2:
        bits = properties[0]
        if bits > 40:
            raise ValueError("invalid properties of a coder")
        settings = {"id": lzma.FILTER_LZMA2, "dict_size": (2 | (bits & 1)) << (bits // 2 + 11)}
    else:
        rest, lc = divmod(properties[0], 9)
        pb, lp = divmod(rest, 5)
        dictionary = int.from_bytes(properties[1:5], "little")
        settings = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}
    # lzma allocates the whole dictionary at the start, and no block refers further back than its own size.
    settings["dict_size"] = max(MIN_DICTIONARY, min(settings["dict_size"], size))
    check_limit(settings["dict_size"], MAX_DICTIONARY, "a dictionary of {:,} bytes")
    return settings
