import struct
import zlib

import cv2
import numpy as np
import pytest

from pipeline.data.decode import decode_png
from pipeline.demo.dataset import encode_png
from pipeline.demo.images import draw_image
from pipeline.errors import InputError
from pipeline.task import CIFAR10

IMAGE = draw_image(3, np.random.default_rng(0))
PNG = encode_png(IMAGE)


def decode(data):
    return decode_png(data, CIFAR10.image_shape)


def encode(image):
    return cv2.imencode(".png", image)[1].tobytes()


def chunk(chunk_type, data):
    return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))


ROWS = b"".join(b"\0" + row.tobytes() for row in IMAGE)


def png_of(*pixels, before=b"", after=b"", header=(0, 0, 0)):
    """IMAGE with these compressed pixels, chunks before and after them, and methods in the header."""
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, *header))
    idat = b"".join(chunk(b"IDAT", part) for part in pixels or [zlib.compress(ROWS)])
    return PNG[:8] + start + before + idat + after + chunk(b"IEND", b"")


def test_decoded_pixels_are_rgb():
    assert np.array_equal(decode(PNG), IMAGE)


def test_image_shape_is_that_of_the_task():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)

    assert np.array_equal(decode_png(encode_png(image), (48, 48, 3)), image)
    with pytest.raises(InputError, match="is 32x32 pixels, expected 48x48"):
        decode_png(PNG, (48, 48, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html></html>", r"is not a PNG: it starts with b'<html></'"),
        (cv2.imencode(".jpg", IMAGE)[1].tobytes(), r"is not a PNG: it starts with"),
        (b"", r"is not a PNG: it starts with b''"),
        (PNG[:-20], r"is a truncated PNG of \d+ bytes"),
        (PNG[:20], r"is a truncated PNG of 20 bytes"),
        (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], r"wrong checksum of its 'IDAT' chunk"),
        (encode(IMAGE[:28]), r"is 32x28 pixels, expected 32x32"),
        (encode(np.zeros((32, 32), np.uint8)), r"is 8 bit grey, expected 8 bit RGB"),
        (encode(np.zeros((32, 32, 4), np.uint8)), r"is 8 bit RGB with alpha, expected 8 bit RGB"),
        (encode(np.zeros((32, 32, 3), np.uint16)), r"is 16 bit RGB, expected 8 bit RGB"),
        (
            PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)) + PNG[33:],
            r"is 2147483647x2147483647 pixels",
        ),
        (PNG[:33] + chunk(b"IDAT", b"not deflated") + chunk(b"IEND", b""), r"is a corrupted PNG: its pixels"),
        (PNG[:33] + chunk(b"IEND", b""), r"is a corrupted PNG: its pixels"),
        (PNG[:8] + chunk(b"IEND", b""), r"does not start with its header"),
        (png_of(header=(0, 0, 2)), r"its header has the unknown methods \[0, 0, 2\]"),
        (png_of(header=(1, 0, 0)), r"its header has the unknown methods \[1, 0, 0\]"),
        (png_of(zlib.compress(b"\x05" + ROWS[1:])), r"its pixels have an unknown filter"),
        (png_of(zlib.compress(ROWS)[:-4] + b"adle"), r"its pixels can't be decoded \(.*incorrect data check\)"),
        (png_of(zlib.compress(ROWS)[:-4]), r"its pixels can't be decoded"),
        (png_of(before=chunk(b"ABCD", b"")), r"unexpected 'ABCD' chunk"),
        (png_of(before=PNG[8:33]), r"unexpected 'IHDR' chunk"),
        (png_of(after=chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"")), r"unexpected 'IDAT' chunk"),
    ],
    ids=[
        *("html", "jpeg", "empty", "truncated", "truncated header", "flipped", "size", "grey", "alpha", "16 bit"),
        *(
            "bomb",
            "invalid pixels",
            "no pixels",
            "no header",
            "interlacing",
            "compression",
            "filter",
            "adler",
            "no end",
        ),
        *("critical chunk", "second header", "split pixels"),
    ],
)
def test_anything_but_a_complete_rgb_png_is_rejected(data, message, capfd):
    with pytest.raises(InputError, match=message):
        decode(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data",
    [
        png_of(before=chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"broken"))),
        png_of(before=chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3000)))),
        png_of(before=chunk(b"tRNS", bytes(6))),
        png_of(before=chunk(b"tRNS", b"\0" + IMAGE[0, 0, :1].tobytes() * 5)),
        png_of(before=chunk(b"gAMA", bytes(4)) + chunk(b"cHRM", bytes(32)) + chunk(b"sRGB", b"\x09")),
        png_of(before=chunk(b"PLTE", bytes(4)) + chunk(b"bKGD", bytes(2)) + chunk(b"hIST", bytes(2))),
        png_of(before=chunk(b"tEXt", b"") + chunk(b"pHYs", bytes(2)) + chunk(b"tIME", bytes(7)) + chunk(b"sBIT", b"")),
        png_of(after=chunk(b"tEXt", b"a\0b") + chunk(b"eXIf", b"broken")),
        png_of(zlib.compress(ROWS) + b"more"),
        png_of(zlib.compress(ROWS + ROWS)),
        png_of(b"", zlib.compress(ROWS)[:100], zlib.compress(ROWS)[100:]),
        PNG[:-12] + chunk(b"IEND", b"more"),
    ],
    ids=[
        *("broken profile", "profile", "black is transparent", "a colour is transparent", "colours", "palette"),
        *(
            "texts",
            "chunks after the pixels",
            "bytes after the pixels",
            "two images of pixels",
            "pixels in parts",
            "end",
        ),
    ],
)
def test_other_chunks_neither_change_pixels_nor_cause_warnings(data, capfd):
    assert np.array_equal(decode(data), IMAGE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 31, 200])
def test_images_of_any_size_are_decoded(size):
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)

    assert np.array_equal(decode_png(encode_png(image), image.shape), image)


def test_incomplete_pixel_data_is_rejected():
    """A complete file whose compressed pixels end half way."""
    rows = b"".join(b"\0" + row.tobytes() for row in IMAGE[:16])
    data = PNG[:33] + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    with pytest.raises(InputError, match="corrupted PNG"):
        decode(data)
