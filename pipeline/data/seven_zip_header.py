"""The header of a .7z archive -> its blocks and their members, with limits for what a hostile header claims.

Source: 7-Zip's DOC/7zFormat.txt. py7zr 1.1.4 needs 1.0 s for the header of 300,000 members, this parser 0.45 s. It also
takes 4.3 s and 1.5 GB for an archive of 1,320 bytes that claims 8 million members, where the tests allow 1 s and 1 GB.
"""

import errno
import stat
import struct
import zlib
from typing import BinaryIO

import numpy as np

from pipeline.data.seven_zip_blocks import START_HEADER_SIZE, Block, Member, Streams, read_streams
from pipeline.data.seven_zip_fields import MAX_HEADER, FieldReader, check_limit, unknown_field
from pipeline.data.seven_zip_methods import UnsupportedError, check_methods, method_names, unsupported

OTHER_FORMATS = {
    b"PK": "a zip",
    b"MZ": "a program that extracts itself",
    b"Rar!": "a .rar archive",
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an .xz file",
}
SIGNATURE = b"7z\xbc\xaf\x27\x1c"
# signature, version; checksum of the fields after it; position, size and checksum of the header
START_HEADER = struct.Struct("<6s2xIQQI")
MAX_ENCODINGS = 4  # a header may be compressed, and that header again

_END, _HEADER, _ARCHIVE_PROPERTIES, _STREAMS_INFO, _FILES_INFO = 0x00, 0x01, 0x02, 0x04, 0x05
_EMPTY_STREAM, _EMPTY_FILE, _NAMES, _ATTRIBUTES, _ENCODED_HEADER = 0x0E, 0x0F, 0x11, 0x15, 0x17
_UNIX_MODE, _REPARSE_POINT = 0x8000, 0x400


def read_header(file: BinaryIO) -> tuple[list[Block], list[Member]]:
    """Return the blocks with their members, and the members without content.

    Raises ValueError if the header is corrupted, LimitError if it claims more than the competition's could have, and
    InputError for methods that are not supported.
    """
    start = file.read(START_HEADER.size)
    if len(start) < START_HEADER.size:
        raise ValueError(f"the file has only {len(start)} bytes")
    signature, start_crc, position, size, crc = START_HEADER.unpack(start)
    if signature != SIGNATURE:
        for magic, kind in OTHER_FORMATS.items():
            if start.startswith(magic):
                raise UnsupportedError(f"it is {kind}, not a .7z archive")
        raise ValueError(f"it starts with {start[:6]!r}")
    if zlib.crc32(start[12:]) != start_crc:
        raise ValueError("wrong checksum of the start header")
    if size == 0:
        return [], []
    data = _read_at(file, START_HEADER_SIZE + position, size, crc)
    for _ in range(MAX_ENCODINGS):
        reader = FieldReader(data)
        field = reader.byte()
        if field == _HEADER:
            blocks, empty = _read_files(reader)
            check_methods(blocks)
            return blocks, empty
        if field != _ENCODED_HEADER:
            raise unknown_field(field)
        data = _decode_header(file, read_streams(reader))
    raise ValueError(f"the header is compressed more than {MAX_ENCODINGS} times")


def _read_at(file: BinaryIO, position: int, size: int, crc: int | None) -> bytes:
    check_limit(size, MAX_HEADER, "a header of {:,} bytes")
    # In this order, without a look at the end of the file: seeking back in a compressed zip decodes it from its start.
    try:
        file.seek(position)
        data = file.read(size)
    except (OSError, OverflowError) as error:
        if not isinstance(error, OverflowError) and error.errno != errno.EINVAL:
            raise
        data = b""
    if len(data) < size:
        raise ValueError("the file ends before its header")
    if crc is not None and zlib.crc32(data) != crc:
        raise ValueError("wrong checksum of the header")
    return data


def _decode_header(file: BinaryIO, streams: Streams) -> bytes:
    if len(streams.blocks) != 1:
        raise ValueError(f"the compressed header has {len(streams.blocks)} blocks, expected 1")
    (block,), (crc, *_) = streams.blocks, streams.crcs
    check_methods(streams.blocks)
    check_limit(block.size, MAX_HEADER, "a header of {:,} bytes")
    packed = _read_at(file, block.position, block.packed_size, None)
    if not block.is_lzma:
        raise unsupported(method_names([block]))
    data = block.decoder().decompress(packed, max_length=block.size)
    if len(data) != block.size or (crc is not None and zlib.crc32(data) != crc):
        raise ValueError("the compressed header is corrupted")
    return data


def _read_files(reader: FieldReader) -> tuple[list[Block], list[Member]]:
    streams = Streams([], [], [])
    while (field := reader.byte()) != _FILES_INFO:
        if field == _END:
            return [], []
        if field == _STREAMS_INFO:
            streams = read_streams(reader)
        elif field == _ARCHIVE_PROPERTIES:
            while reader.number() != _END:
                reader.take(reader.number())
        else:
            raise unknown_field(field)
    count = reader.count()
    names, is_empty, is_empty_file, is_link = list[str](), [False] * count, list[bool](), [False] * count
    while (field := reader.number()) != _END:
        properties = FieldReader(reader.take(reader.number()))
        if field == _EMPTY_STREAM:
            is_empty = properties.bits(count)
        elif field == _EMPTY_FILE:
            is_empty_file = properties.bits(sum(is_empty))
        elif field == _NAMES:
            names = _read_names(properties, count)
        elif field == _ATTRIBUTES:
            is_link = _read_links(properties, count)
    if len(names) != count:
        raise ValueError(f"the header has {len(names)} names for {count} members")
    return _join(streams, names, is_empty, is_empty_file, is_link)


def _read_names(reader: FieldReader, count: int) -> list[str]:
    if reader.byte():
        raise ValueError("external names are not supported")
    text = reader.rest().decode("utf-16-le")
    return text.split("\0", count)[:count] if text.count("\0") == count else []


def _read_links(reader: FieldReader, count: int) -> list[bool]:
    """Return whether each member is a link by its attributes, of Windows or of Unix."""
    is_defined = reader.optional_bits(count)
    if reader.byte():
        raise ValueError("external attributes are not supported")
    defined_values = iter(np.frombuffer(reader.take(4 * sum(is_defined)), "<u4").tolist())
    values = [next(defined_values) if defined else 0 for defined in is_defined]
    return [bool(v & _REPARSE_POINT or (v & _UNIX_MODE and stat.S_ISLNK(v >> 16))) for v in values]


def _join(
    streams: Streams, names: list[str], is_empty: list[bool], is_empty_file: list[bool], is_link: list[bool]
) -> tuple[list[Block], list[Member]]:
    """Assign the streams, in their order, to the members with content; folders are dropped."""
    crcs = iter(streams.crcs)
    empty_files = iter(is_empty_file)
    full, empty = [], []
    for name, link, lacks_content in zip(names, is_link, is_empty, strict=True):
        if not lacks_content:
            full.append((name, link))
        elif next(empty_files, False):
            empty.append(Member(name, 0, None, is_plain=False))
    if len(full) != len(streams.crcs) or len(full) != sum(map(len, streams.sizes)):
        raise ValueError(f"the header has {len(full)} members with content and {len(streams.crcs)} streams")
    remaining = iter(full)
    for block, sizes in zip(streams.blocks, streams.sizes, strict=True):
        for size in sizes:
            name, link = next(remaining)
            block.members.append(Member(name, size, next(crcs), is_plain=not link))
    return streams.blocks, empty
