"""An encoded PNG -> uint8 [32, 32, 3] in RGB, refused unless it is whole and of exactly that kind."""

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.task import IMAGE_SHAPE
from pipeline.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """Decode one image. Raises InputError that says what it is instead."""
    _check_chunks(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != IMAGE_SHAPE or image.dtype != np.uint8:
        raise InputError("is a corrupt PNG: its pixels can't be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_chunks(data: bytes) -> None:
    """Walk the chunks up to IEND: OpenCV itself returns half an image when the rest is missing."""
    if not data.startswith(SIGNATURE):
        raise InputError(f"is no PNG: it begins with {data[:8]!r}")
    position, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        head = data[position : position + 8]
        if len(head) < 8:
            raise InputError(f"is a truncated PNG of {len(data)} bytes")
        length, kind = struct.unpack(">I4s", head)
        end = position + 8 + length
        if end + 4 > len(data):
            raise InputError(f"is a truncated PNG of {len(data)} bytes")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError(f"is a corrupt PNG: the checksum of its {kind.decode('latin-1')!r} chunk is wrong")
        if position == len(SIGNATURE):
            _check_header(kind, data[position + 8 : end])
        if kind == b"acTL":
            raise InputError("is an animated PNG, expected one image")
        position = end + 4


def _check_header(kind: bytes, header: bytes) -> None:
    if kind != b"IHDR" or len(header) != 13:
        raise InputError("is a corrupt PNG: it does not begin with its header")
    width, height, depth, mode = struct.unpack(">IIBB", header[:10])
    if (width, height) != (IMAGE_SHAPE[1], IMAGE_SHAPE[0]):
        raise InputError(f"is {width}x{height} pixels, expected {IMAGE_SHAPE[1]}x{IMAGE_SHAPE[0]}")
    if (depth, mode) != (8, 2):
        raise InputError(f"is {depth} bit {MODES.get(mode, f'mode {mode}')}, expected 8 bit RGB")
