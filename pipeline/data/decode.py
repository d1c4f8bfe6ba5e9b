"""An encoded PNG -> uint8 [height, width, 3], RGB. Anything but a complete 8 bit RGB image of that size is an error."""

import struct
import zlib

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.task import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
BIT_DEPTH, RGB = 8, 2


def decode_png(data: bytes, image_shape: tuple[int, int, int]) -> Image:
    """Decode one image of shape (height, width, 3). Raises InputError with what was found and expected."""
    _check_chunks(data, image_shape)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != image_shape or image.dtype != np.uint8:
        raise InputError("is a corrupted PNG: its pixels can't be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_chunks(data: bytes, image_shape: tuple[int, int, int]) -> None:
    """Check every chunk up to IEND: OpenCV itself returns half an image when the rest is missing."""
    if not data.startswith(SIGNATURE):
        raise InputError(f"is not a PNG: it starts with {data[:8]!r}")
    position, chunk_type = len(SIGNATURE), b""
    while chunk_type != b"IEND":
        head = data[position : position + 8]
        if len(head) < 8:
            raise InputError(f"is a truncated PNG of {len(data)} bytes")
        length, chunk_type = struct.unpack(">I4s", head)
        end = position + 8 + length
        if end + 4 > len(data):
            raise InputError(f"is a truncated PNG of {len(data)} bytes")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError(f"is a corrupted PNG: wrong checksum of its {chunk_type.decode('latin-1')!r} chunk")
        if position == len(SIGNATURE):
            _check_header(chunk_type, data[position + 8 : end], image_shape)
        if chunk_type == b"acTL":
            raise InputError("is an animated PNG, expected one image")
        position = end + 4


def _check_header(chunk_type: bytes, header: bytes, image_shape: tuple[int, int, int]) -> None:
    if chunk_type != b"IHDR" or len(header) != 13:
        raise InputError("is a corrupted PNG: it does not start with its header")
    width, height, bit_depth, color_type = struct.unpack(">IIBB", header[:10])
    if (height, width) != image_shape[:2]:
        raise InputError(f"is {width}x{height} pixels, expected {image_shape[1]}x{image_shape[0]}")
    if (bit_depth, color_type) != (BIT_DEPTH, RGB):
        found = COLOR_TYPES.get(color_type, f"color type {color_type}")
        raise InputError(f"is {bit_depth} bit {found}, expected 8 bit RGB")
