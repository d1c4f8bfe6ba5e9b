import struct
import zlib

import cv2
import numpy as np
import pytest

from pipeline.demo.dataset import encode_png
from pipeline.demo.images import draw_image
from pipeline.data.decode import decode_png
from pipeline.errors import InputError

IMAGE = draw_image(3, np.random.default_rng(0))
PNG = encode_png(IMAGE)


def encode(image):
    return cv2.imencode(".png", image)[1].tobytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_pixels_come_back_in_rgb():
    assert np.array_equal(decode_png(PNG), IMAGE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html></html>", r"is no PNG: it begins with b'<html></'"),
        (cv2.imencode(".jpg", IMAGE)[1].tobytes(), r"is no PNG: it begins with"),
        (b"", r"is no PNG: it begins with b''"),
        (PNG[:-20], r"is a truncated PNG of \d+ bytes"),
        (PNG[:20], r"is a truncated PNG of 20 bytes"),
        (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], r"checksum of its 'IDAT' chunk is wrong"),
        (encode(IMAGE[:28]), r"is 32x28 pixels, expected 32x32"),
        (encode(np.zeros((32, 32), np.uint8)), r"is 8 bit grey, expected 8 bit RGB"),
        (encode(np.zeros((32, 32, 4), np.uint8)), r"is 8 bit RGB with alpha, expected 8 bit RGB"),
        (encode(np.zeros((32, 32, 3), np.uint16)), r"is 16 bit RGB, expected 8 bit RGB"),
        (
            PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)) + PNG[33:],
            r"is 2147483647x2147483647 pixels",
        ),
        (PNG[:33] + chunk(b"IDAT", b"no deflate stream") + chunk(b"IEND", b""), r"is a corrupt PNG: its pixels"),
        (PNG[:33] + chunk(b"IEND", b""), r"is a corrupt PNG: its pixels"),
        (PNG[:8] + chunk(b"IEND", b""), r"does not begin with its header"),
    ],
    ids=[
        *("html", "jpeg", "empty", "cut", "header cut", "flipped", "size", "grey", "alpha", "16 bit", "bomb"),
        *("no pixels", "no data", "no header"),
    ],
)
def test_what_is_no_whole_rgb_png_says_what_it_is(data, message):
    with pytest.raises(InputError, match=message):
        decode_png(data)


def test_an_image_that_ends_early_is_not_filled_up():
    """A whole file whose compressed pixels stop half way."""
    rows = b"".join(b"\0" + row.tobytes() for row in IMAGE[:16])
    data = PNG[:33] + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    with pytest.raises(InputError, match="corrupt PNG"):
        decode_png(data)
