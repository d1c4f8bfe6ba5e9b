"""An encoded PNG -> uint8 [height, width, 3], RGB. Anything but a complete 8 bit RGB image of that size is an error.

OpenCV gets a PNG of three chunks, made from the checked pixel data alone: libpng would print a warning for every image
with a colour profile or text that it does not like, and would add a channel for a transparent colour.
"""

import struct
import zlib
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.task import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
BIT_DEPTH, RGB = 8, 2
MAX_FILTER = 4
MAX_EXCESS = 1 << 16  # bytes after the pixels, which are left aside
MAX_STORED = 0xFFFF  # bytes of a block without compression
CRITICAL = (b"PLTE", b"IDAT", b"IEND")
# Adam7 interlacing: first row, first column, step of rows and step of columns of each pass
NOT_INTERLACED = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def decode_png(data: bytes, image_shape: tuple[int, int, int]) -> Image:
    """Decode one image of shape (height, width, 3). Raises InputError with what was found and expected."""
    header, compressed = _read_chunks(data, image_shape)
    rows = _decompress(compressed, image_shape, is_interlaced=bool(header[-1]))
    # Stored without compression, which costs nothing; the pixels are decompressed once, above.
    png = _start(header) + _chunk(b"IDAT", _store(rows)) + END
    image = None
    with suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != image_shape or image.dtype != np.uint8:
        raise InputError("is a corrupted PNG: its pixels can't be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_chunks(data: bytes, image_shape: tuple[int, int, int]) -> tuple[bytes, bytes]:
    """Check every chunk up to IEND; return the header and the compressed pixels."""
    if not data.startswith(SIGNATURE):
        raise InputError(f"is not a PNG: it starts with {data[:8]!r}")
    position, chunk_type, header, pixels = len(SIGNATURE), b"", b"", list[bytes]()
    while chunk_type != b"IEND":
        head, previous = data[position : position + 8], chunk_type
        if len(head) < 8:
            raise InputError(f"is a truncated PNG of {len(data)} bytes")
        length, chunk_type = struct.unpack(">I4s", head)
        end = position + 8 + length
        if end + 4 > len(data):
            raise InputError(f"is a truncated PNG of {len(data)} bytes")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError(f"is a corrupted PNG: wrong checksum of its {chunk_type.decode('latin-1')!r} chunk")
        content = data[position + 8 : end]
        if not header:
            _check_header(chunk_type, content, image_shape)
            header = content
        elif chunk_type == b"IDAT" and (not pixels or previous == b"IDAT"):
            pixels.append(content)
        elif chunk_type == b"acTL":
            raise InputError("is an animated PNG, expected one image")
        elif chunk_type == b"IDAT" or not (chunk_type in CRITICAL or (chunk_type[0] & 0x20 and chunk_type.isalpha())):
            raise InputError(f"is a corrupted PNG: unexpected {chunk_type.decode('latin-1')!r} chunk")
        position = end + 4
    return header, b"".join(pixels)


def _check_header(chunk_type: bytes, header: bytes, image_shape: tuple[int, int, int]) -> None:
    if chunk_type != b"IHDR" or len(header) != 13:
        raise InputError("is a corrupted PNG: it does not start with its header")
    width, height, bit_depth, color_type, *methods = struct.unpack(">IIBBBBB", header)
    if (height, width) != image_shape[:2]:
        raise InputError(f"is {width}x{height} pixels, expected {image_shape[1]}x{image_shape[0]}")
    if (bit_depth, color_type) != (BIT_DEPTH, RGB):
        found = COLOR_TYPES.get(color_type, f"color type {color_type}")
        raise InputError(f"is {bit_depth} bit {found}, expected 8 bit RGB")
    if methods not in ([0, 0, 0], [0, 0, 1]):
        raise InputError(f"is a corrupted PNG: its header has the unknown methods {methods}")


def _decompress(compressed: bytes, image_shape: tuple[int, int, int], *, is_interlaced: bool) -> bytes:
    """Return the filtered rows of the image; what follows them is left aside."""
    starts, size = _row_starts(image_shape, ADAM7 if is_interlaced else NOT_INTERLACED)
    decoder = zlib.decompressobj()
    try:
        rows = decoder.decompress(compressed, size + 1)
        if not decoder.eof:
            decoder.decompress(decoder.unconsumed_tail, MAX_EXCESS)
    except zlib.error as error:
        raise InputError(f"is a corrupted PNG: its pixels can't be decoded ({error})") from None
    if len(rows) < size or not decoder.eof:
        raise InputError(f"is a corrupted PNG: its pixels can't be decoded (no end after {len(rows)} of {size} bytes)")
    if max(map(rows.__getitem__, starts)) > MAX_FILTER:
        raise InputError("is a corrupted PNG: its pixels have an unknown filter")
    return rows[:size]


@lru_cache
def _row_starts(
    image_shape: tuple[int, int, int], passes: tuple[tuple[int, int, int, int], ...]
) -> tuple[list[int], int]:
    """Return where each row of all passes starts, with the byte of its filter, and the size of all."""
    height, width, channels = image_shape
    row_sizes = [
        1 + channels * len(range(left, width, right))
        for top, left, down, right in passes
        if left < width
        for _ in range(top, height, down)
    ]
    *starts, size = accumulate(row_sizes, initial=0)
    return starts, size


def _store(data: bytes) -> bytes:
    """Return a zlib stream of blocks without compression, which zlib itself takes longer to make."""
    stream = b"\x78\x01"
    for start in range(0, len(data), MAX_STORED):
        block = data[start : start + MAX_STORED]
        is_last = start + MAX_STORED >= len(data)
        stream += struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF) + block
    return stream + struct.pack(">I", zlib.adler32(data))


@lru_cache
def _start(header: bytes) -> bytes:
    return SIGNATURE + _chunk(b"IHDR", header)


def _chunk(chunk_type: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(chunk_type))
    return struct.pack(">I", len(content)) + chunk_type + content + struct.pack(">I", crc)


END = _chunk(b"IEND", b"")
