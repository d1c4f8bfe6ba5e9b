"""Malicious files: each is rejected or read within one second of CPU time and 1 GB of memory, without side effects."""

import lzma
import os
import re
import resource
import struct
import time
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import py7zr
import pytest
import torch
from test_decode import IMAGE, PNG, chunk

from pipeline.config_files import load_config, parse_yaml
from pipeline.data.decode import decode_png
from pipeline.data.image_cache import prepare_images
from pipeline.data.labels import parse_labels
from pipeline.data.prepare import prepare
from pipeline.data.seven_zip_header import START_HEADER
from pipeline.data.source import find_source
from pipeline.data.torchvision_files import load_batch
from pipeline.demo.dataset import make_synthetic_dataset, write_archive
from pipeline.errors import ConfigError, InputError, RunError, TrainingError
from pipeline.learning.train import build_model
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.prediction_files import load_predictions
from pipeline.runs.run_folder import check_run_name
from pipeline.submission.csv_file import check_submission
from pipeline.task import CIFAR10

SECONDS, GIGABYTE = 1.0, 1 << 30
ZIP_NAME, TRAIN_LABELS_CSV = CIFAR10.zip_name, CIFAR10.train_labels_csv
IDS = np.arange(1, 6)


@contextmanager
def bounded():
    """Limit the block to one second of CPU time and 1 GB of additional memory; more is a MemoryError."""
    kilobytes = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (kilobytes * 1024 + GIGABYTE, limits[1]))
    started = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    assert time.process_time() - started < SECONDS


@contextmanager
def rejected(error, message):
    """Expect an error with a message, within the limits."""
    with bounded(), pytest.raises(error, match=message):
        yield


@pytest.fixture
def folder(tmp_path):
    """An input folder; its parent folder must not change."""
    path = tmp_path / "input"
    make_synthetic_dataset(path, num_train=10, num_test=5)
    (tmp_path / "sibling").write_text("unchanged")
    yield path
    assert sorted(os.listdir(tmp_path)) == ["input", "sibling"]
    assert (tmp_path / "sibling").read_text() == "unchanged"


def read(source, split):
    with source.read(split) as images:
        return list(images)


def find(folder):
    return find_source(folder, CIFAR10)


def read_zip(folder):
    with zipfile.ZipFile(folder / ZIP_NAME) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(folder, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / ZIP_NAME, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)


def test_memory_limit_is_enforced():
    with pytest.raises(MemoryError), bounded():
        bytearray(8 * GIGABYTE)  # more than earlier tests can have freed and kept


# --- zip


@pytest.mark.parametrize("prefix", ["../", "/", "/tmp/", "a/../../", "C:\\"])
def test_zip_member_with_another_path_is_ignored(folder, prefix):
    write_zip(folder, [(prefix + name, data) for name, data in read_zip(folder).items()])

    with rejected(InputError, r"has neither train\.7z"):
        find(folder).ids("train")


def test_link_in_zip_is_not_followed(folder):
    entry = zipfile.ZipInfo("train.7z")
    entry.external_attr = 0o120777 << 16
    write_zip(folder, [(entry, "/etc/passwd")])

    with rejected(InputError, r"train\.7z is not a valid \.7z archive"):
        find(folder).ids("train")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_zip_member_is_named(folder):
    write_zip(folder, [*read_zip(folder).items(), ("train.7z", b"another")])

    with rejected(InputError, r"contains 'train\.7z' more than once"):
        find(folder).ids("train")


def test_wrong_checksum_in_zip_is_detected(folder):
    data = (folder / ZIP_NAME).read_bytes()
    position = data.index(b"id,label\n1,", data.index(TRAIN_LABELS_CSV.encode())) + len("id,label\n")
    (folder / ZIP_NAME).write_bytes(data[:position] + b"2" + data[position + 1 :])

    with rejected(InputError, rf"{TRAIN_LABELS_CSV} is corrupted \(Bad CRC-32"):
        find(folder).labels()


def test_zip_without_its_first_half_is_rejected(folder):
    """The offsets of its members are then negative; found by fuzzing."""
    data = (folder / ZIP_NAME).read_bytes()
    (folder / ZIP_NAME).write_bytes(data[len(data) // 2 :])

    with rejected(InputError, rf"{TRAIN_LABELS_CSV} is corrupted \(.*download it again"):
        find(folder).labels()


def test_zip_of_a_million_members_is_rejected(folder):
    entry = b"PK\x01\x02" + struct.pack("<6H3L5H2L", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    listing = entry * 1_000_000
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, len(listing), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(listing), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (folder / ZIP_NAME).write_bytes(listing + end64 + locator + end)

    with rejected(InputError, r"cifar-10\.zip has a list of members of more than"):
        find(folder).ids("train")


def test_csv_that_unpacks_to_gigabytes_is_rejected(folder):
    members = read_zip(folder) | {TRAIN_LABELS_CSV: bytes(64 << 20)}
    write_zip(folder, members.items(), zipfile.ZIP_DEFLATED)

    with rejected(InputError, rf"{TRAIN_LABELS_CSV} has more than 33,554,432 bytes"):
        find(folder).labels()


def test_encrypted_zip_is_rejected(folder):
    data = bytearray((folder / ZIP_NAME).read_bytes())
    position = data.index(b"PK\x01\x02")
    while position >= 0:
        local = struct.unpack_from("<L", data, position + 42)[0]
        data[position + 8] |= 1
        data[local + 6] |= 1
        position = data.find(b"PK\x01\x02", position + 4)
    (folder / ZIP_NAME).write_bytes(data)

    with rejected(InputError, r"cifar-10\.zip: trainLabels\.csv is encrypted with a password, which is not supported"):
        find(folder).labels()
    with rejected(InputError, r"cifar-10\.zip: train\.7z is encrypted with a password, which is not supported"):
        find(folder).ids("train")


@pytest.mark.parametrize(
    ("method", "name"),
    [(9, "Deflate64"), (93, "Zstandard"), (95, "XZ"), (98, "PPMd"), (6, "Implode"), (77, "method 77")],
    ids=str,
)
def test_unsupported_method_of_a_zip_is_named_and_not_called_corrupted(folder, method, name):
    data = bytearray((folder / ZIP_NAME).read_bytes())
    for signature, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        position = data.find(signature)
        while position >= 0:
            struct.pack_into("<H", data, position + offset, method)
            position = data.find(signature, position + 4)
    (folder / ZIP_NAME).write_bytes(data)

    for use, member in (
        (lambda: find(folder).labels(), "trainLabels.csv"),
        (lambda: find(folder).ids("test"), "test.7z"),
    ):
        with rejected(
            InputError, rf"{member} is compressed with {name}, which is not supported; unzip it to a new folder"
        ):
            use()


def test_newer_version_of_zip_is_not_called_corrupted(folder):
    data = bytearray((folder / ZIP_NAME).read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 99
    (folder / ZIP_NAME).write_bytes(data)

    with rejected(InputError, r"zip file version 9\.9, which is not supported"):
        find(folder).labels()


@pytest.mark.parametrize("size", [-1000, None], ids=["first part", "last part"])
def test_part_of_a_split_zip_is_not_called_corrupted(folder, size):
    (folder / ZIP_NAME).write_bytes((folder / ZIP_NAME).read_bytes()[:size])
    (folder / "cifar-10.z01").write_bytes(b"PK")

    with rejected(InputError, r"cifar-10\.zip is one part of a split zip; unzip it to a new folder with 7-Zip"):
        find(folder).labels()


def test_zip_of_too_many_members_does_not_hide_the_files_beside_it(folder):
    with zipfile.ZipFile(folder / ZIP_NAME) as archive:
        archive.extractall(folder)
    with zipfile.ZipFile(folder / ZIP_NAME, "w") as archive:
        for number in range(1, 20_001):
            archive.writestr(f"train/{number}.png", b"")
    source = find(folder)

    with bounded():
        assert source.ids("train").tolist() == list(range(1, 11))
        assert len(source.labels().ids) == 10
    (folder / "train.7z").unlink()
    with rejected(InputError, r"has a list of members of more than .*; unzip cifar-10\.zip to a new folder, and give"):
        find(folder).ids("train")


def test_zip_in_zip_is_not_opened(folder):
    write_zip(folder, [(ZIP_NAME, (folder / ZIP_NAME).read_bytes())])

    with rejected(InputError, r"has neither train\.7z"):
        find(folder).ids("train")


# --- 7z


def write_7z(folder, files):
    (folder / ZIP_NAME).unlink(missing_ok=True)
    write_archive(folder / "train.7z", dict(files))


def forge(folder, content, name="train/1.png", **claims):
    """Write an archive of one member with a forged header."""
    write_7z(folder, {"train/1.png": content})
    data = (folder / "train.7z").read_bytes()
    packed = struct.unpack_from("<Q", data, 12)[0]
    text = (name + "\0").encode("utf-16-le")
    block = lzma2_header(**{"size": len(content), "packed": packed} | claims)
    header = block + b"\x01\x11" + number(len(text) + 1) + b"\0" + text + b"\0\0"
    rest = struct.pack("<QQI", packed, len(header), zlib.crc32(header))
    start = struct.pack("<6sBBI", b"7z\xbc\xaf\x27\x1c", 0, 4, zlib.crc32(rest)) + rest
    (folder / "train.7z").write_bytes(start + data[32 : 32 + packed] + header)


@pytest.mark.parametrize("name", ["../train/1.png", "train/../../1.png", "train/1.png/../../2", "train/\n1.png"])
def test_member_name_with_path_traversal_is_rejected(folder, name):
    forge(folder, PNG, name)

    with rejected(InputError, r"expected names such as train/1\.png"):
        find(folder).ids("train")


def test_link_in_archive_is_rejected(folder, tmp_path):
    write_7z(folder, [])
    (folder / "1.png").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(folder / "train.7z", "w") as archive:
        archive.write(folder / "1.png", "train/1.png")

    with rejected(InputError, r"'train/1\.png' with \d+ bytes or a link"):
        find(folder).ids("train")


def test_archive_in_archive_is_not_an_image(folder):
    write_7z(folder, [("train/1.png", PNG)])
    nested = (folder / "train.7z").read_bytes()
    write_7z(folder, [("train/1.png", nested)])

    with rejected(InputError, r"train/1\.png is not a PNG: it starts with b.7z"):
        prepare_images(find(folder), "train", folder / "cache")
    assert not (folder / "cache" / "train").exists()


def header_of(*parts):
    """A .7z with these bytes as its header."""
    header = b"".join(part if isinstance(part, bytes) else bytes([part]) for part in parts)
    rest = struct.pack("<QQI", 0, len(header), zlib.crc32(header))
    return struct.pack("<6sBBI", b"7z\xbc\xaf\x27\x1c", 0, 4, zlib.crc32(rest)) + rest + header


def number(value):
    return b"\xff" + struct.pack("<Q", value)


def lzma2_header(*, size, properties=b"\x18", packed=10, method=b"!", members=1):
    """One block that claims a size and a number of members without names."""
    coder = bytes([1, 0x20 | len(method)]) + method + bytes([len(properties)]) + properties
    streams = b"\x06\x00\x01\x09" + number(packed) + b"\x00" + b"\x07\x0b\x01\x00" + coder + b"\x0c" + number(size)
    return b"\x01\x04" + streams + b"\x00\x08\x0d" + number(members) + b"\x00\x00\x05"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header_of(1, 5, number(1 << 40), 0), r"claims 1,099,511,627,776 members or parts"),
        (header_of(1, 5, number(1_000_000), 0x0E, number(1 << 50)), r"claims 1,000,000 members or parts"),
        (header_of(1, 4, 6, number(0), number(1 << 62)), r"claims 4,611,686,018,427,387,904 members or parts"),
        (header_of(1, 4, 7, 0x0B, number(1 << 33)), r"claims 8,589,934,592 members or parts"),
        (header_of(1, 4, 7, 0x0B, 1, 0, number(1 << 20)), r"claims 1,048,576 members or parts, expected at most 32"),
        (header_of(lzma2_header(size=100, members=1 << 30)), r"claims 1,073,741,824 members or parts"),
        (header_of(lzma2_header(size=1 << 50), 1, 0x11, 5, 0, b"a\0\0\0", 0, 0), r"'a' with 1125899906842624 bytes"),
        (header_of(1, 5, 3, 0x0E, number(1 << 60)), r"the header is truncated"),
        (header_of(1, 5, 1, 0x11, 7, 0, b"\x00\xd8a\0\0\0", 0, 0), r"can't decode bytes"),
        (header_of(0x17, lzma2_header(size=1 << 40)[2:-14], 0), r"claims a header of 1,099,511,627,776 bytes"),
        (header_of(9), r"the header has the unknown field 9"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", r"the file has only 8 bytes"),
    ],
)
def test_header_with_false_claims_is_rejected(folder, data, message):
    write_7z(folder, [])
    (folder / "train.7z").write_bytes(data)

    with rejected(InputError, message):
        find(folder).ids("train")


@pytest.mark.parametrize("num_members", [8_000_000, 400_000])
def test_small_archive_that_claims_many_members_is_rejected(folder, num_members):
    """A compressed header of a few kB; py7zr 1.1.4 takes 4 s and 1.5 GB for the first."""
    header = b"\x01\x05" + number(num_members) + b"\x19" + number(num_members) + bytes(num_members) + b"\0\0"
    coder = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    packed = coder.compress(header) + coder.flush()
    streams = lzma2_header(size=len(header), packed=len(packed), properties=b"\x10")[2:-14]
    encoded = b"\x17" + streams + b"\0"
    write_7z(folder, [])
    start = struct.pack("<QQI", len(packed), len(encoded), zlib.crc32(encoded))
    signature = struct.pack("<6sBBI", b"7z\xbc\xaf\x27\x1c", 0, 4, zlib.crc32(start))
    (folder / "train.7z").write_bytes(signature + start + packed + encoded)

    with rejected(InputError, r"claims 8,000,000 members|has 0 names for 400000 members"):
        find(folder).ids("train")


def test_header_beyond_the_end_is_rejected(folder):
    write_7z(folder, [])
    rest = struct.pack("<QQI", 1 << 60, 100, 0)
    (folder / "train.7z").write_bytes(START_HEADER.pack(b"7z\xbc\xaf\x27\x1c", zlib.crc32(rest), 1 << 60, 100, 0))

    with rejected(InputError, r"the file ends before its header"):
        find(folder).ids("train")


def test_dictionary_of_a_large_block_is_limited(folder):
    """The header claims 3,000 images of half a MB in one block, whose coder requests a dictionary of 4 GB."""
    size, count = 1 << 19, 3000
    block = lzma2_header(size=count * size, properties=b"\x28", members=count)
    sizes = b"\x09" + number(size) * (count - 1)
    block = block.replace(b"\x0d" + number(count), b"\x0d" + number(count) + sizes)
    names = "".join(f"train/{i}.png\0" for i in range(1, count + 1)).encode("utf-16-le")
    write_7z(folder, [])
    (folder / "train.7z").write_bytes(header_of(block, number(count), 0x11, number(len(names) + 1), 0, names, 0, 0))
    source = find(folder)

    with rejected(
        InputError, r"train\.7z: it claims a dictionary of .*; this is not the competition's archive, download"
    ):
        read(source, "train")


def test_large_file_that_windows_adds_to_an_archive_is_skipped_in_pieces(folder):
    write_7z(folder, [("train/1.png", PNG), ("train/Thumbs.db", bytes(300 << 20)), ("train/2.png", PNG)])
    source = find(folder)

    with bounded():
        assert dict(read(source, "train")) == {1: PNG, 2: PNG}


def test_dictionary_of_gigabytes_is_not_allocated(folder):
    """A small block does not need the dictionary of 4 GB that its coder requests."""
    forge(folder, PNG, properties=b"\x28")
    source = find(folder)

    with bounded():
        assert [(i, source.decode(png).shape) for i, png in read(source, "train")] == [(1, (32, 32, 3))]


def test_bytes_beyond_the_declared_members_are_not_decoded(folder):
    """A decompression bomb whose header declares only its first bytes."""
    forge(folder, PNG + bytes(100 << 20), size=len(PNG))
    source = find(folder)

    with bounded():
        assert dict(read(source, "train")) == {1: PNG}


# --- PNG


def with_chunk(chunk_type, data):
    return PNG[:33] + chunk(chunk_type, data) + PNG[33:]


def palette_png():
    rows = b"".join(b"\0" + bytes(32) for _ in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 3, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(3)) + chunk(b"IDAT", zlib.compress(rows)) + PNG[-12:]


def interlaced_png():
    """Adam7: seven passes of every eighth, fourth and second pixel."""
    rgb, passes = (
        IMAGE,
        [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)],
    )
    rows = b"".join(
        b"\0" + row.tobytes() for top, left, down, right in passes for row in rgb[top::down, left::right]
    )  # fmt: skip
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 1)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + PNG[-12:]


BOMB = zlib.compress(bytes(200 << 20))


@pytest.mark.parametrize(
    "data",
    [
        PNG + b"<script>trailing</script>" * 1000,
        interlaced_png(),
        with_chunk(b"iCCP", b"profile\0\0" + BOMB),
        with_chunk(b"zTXt", b"Comment\0\0" + BOMB),
        with_chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
        with_chunk(b"eXIf", b"II*\0" + bytes([255]) * 1000),
        PNG[:33] + chunk(b"zTXt", b"a\0\0") * 50_000 + PNG[33:],
    ],
    ids=["trailing", "interlaced", "icc bomb", "text bomb", "utf-8 bomb", "exif", "many chunks"],
)
def test_additional_png_chunks_do_not_change_pixels(data, capfd):
    with bounded():
        assert np.array_equal(decode_png(data, CIFAR10.image_shape), IMAGE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (palette_png(), r"is 8 bit palette, expected 8 bit RGB"),
        (with_chunk(b"acTL", struct.pack(">II", 1000, 0)), r"is an animated PNG, expected one image"),
        (
            PNG[:33] + chunk(b"IDAT", BOMB[: 100 << 10]) + PNG[-12:],
            r"is a corrupted PNG",
        ),
        (PNG[:8] + b"\xff\xff\xff\xffIHDR", r"is a truncated PNG"),
        (PNG[:16] + b"\xff" * 8 + PNG[24:], r"wrong checksum of its 'IHDR' chunk"),
        (cv2.imencode(".gif", IMAGE)[1].tobytes(), r"is not a PNG: it starts with b'GIF"),
    ],
    ids=["palette", "animated", "pixel bomb", "length", "header", "gif"],
)
def test_malicious_png_is_rejected(data, message, capfd):
    with rejected(InputError, message):
        decode_png(data, CIFAR10.image_shape)


def test_test_image_with_a_huge_id_is_named(folder):
    (folder / "test").mkdir()
    (folder / ZIP_NAME).unlink()
    for number in (1, 2, 999_999_999):
        (folder / "test" / f"{number}.png").write_bytes(PNG)

    with rejected(InputError, r"is missing image test/3\.png \(999999996 in all\), expected 999999999 images"):
        find(folder).ids("test")


def test_huge_file_and_pipe_among_the_images_are_rejected(images_folder, tmp_path):
    folder = tmp_path / "input"
    (folder / "train").mkdir(parents=True)
    with (folder / "train" / "1.png").open("wb") as file:
        file.truncate(20 << 30)
    with rejected(InputError, r"1\.png has more than 1,048,576 bytes"):
        read(find(folder), "train")

    (folder / "train" / "1.png").unlink()
    os.mkfifo(folder / "train" / "1.png")
    with rejected(InputError, r"1\.png is not a file"):
        find(folder).ids("train")


# --- CSV

ROWS = b"id,label\n1,cat\n2,dog\n"


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf" + ROWS, ROWS.replace(b"\n", b"\r\n"), b'id,label\n"1","cat"\n"2",dog\n', ROWS + b"\n\n"],
    ids=["bom", "crlf", "quotes", "empty lines"],
)
def test_common_csv_dialects_are_read(data):
    with bounded():
        assert parse_labels(data, TRAIN_LABELS_CSV, CIFAR10).ids.tolist() == [1, 2]


INVALID_IDS = [
    "1e3",
    "-1",
    "+1",
    "1.0",
    "٣",
    "=cmd()",
    "0",
    "01",
    " 1",
    "1 ",
    "0x1",
    "nan",
    "99999999999999999999",
    "1\0",
]


@pytest.mark.parametrize("text", INVALID_IDS)
def test_invalid_id_in_labels_is_rejected(text):
    with rejected(InputError, r"trainLabels\.csv"):
        parse_labels(f"id,label\n{text},cat\n".encode(), TRAIN_LABELS_CSV, CIFAR10)


@pytest.mark.parametrize("text", INVALID_IDS)
def test_invalid_id_in_submission_is_rejected(text, tmp_path):
    (tmp_path / "s.csv").write_bytes(f"id,label\n{text},cat\n".encode())

    with bounded():
        assert check_submission(tmp_path / "s.csv", np.arange(1, 2), CIFAR10)


HUGE_CSVS = {
    "one line of 10 MB": b"id,label\n1," + b"a" * 10_000_000,
    "one quoted field of 10 MB": b'id,label\n1,"' + b"a\n" * 1_000_000,
    "a million columns": b"id,label" + b",a" * 1_000_000 + b"\n1,cat\n",
    "endless rows": b"id,label\n" + b"1,cat\n" * 5_000_000,
    "endless empty lines": b"id,label\n" + b"\n" * 30_000_000,
    "endless carriage returns": b"id,label\n" + b"\r" * 30_000_000,
}


@pytest.mark.parametrize("data", HUGE_CSVS.values(), ids=HUGE_CSVS)
def test_huge_csv_is_rejected(data, tmp_path):
    (tmp_path / "s.csv").write_bytes(data)

    with bounded(), pytest.raises(InputError):
        parse_labels(data, TRAIN_LABELS_CSV, CIFAR10)
    with bounded():
        assert check_submission(tmp_path / "s.csv", IDS, CIFAR10)


def test_endless_submission_is_rejected(tmp_path):
    with (tmp_path / "s.csv").open("wb") as file:
        file.truncate(20 << 30)

    with bounded():
        assert check_submission(tmp_path / "s.csv", IDS, CIFAR10) == ["it has more than 33,554,432 bytes"]


# --- YAML

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"more than 100,000 values with all aliases expanded"),
        ("seed: &a [*a]", r"recursive alias"),
        ("[" * 5000, r"line 1: nested more than 50 deep"),
        ("{a: " * 5000, r"line 1: nested more than 50 deep"),
        ("seed: " + "9" * 5000, r"can't be parsed: Exceeds the limit"),
        ("seed: 2026-99-99", r"can't be parsed: month must be"),
        ("? [a, b]\n: 1", r"line 1: keys must be strings"),
        ("seed: !!python/name:os.system", r"is not valid YAML: could not determine a constructor"),
        ("seed: !!binary '%%%'", r"seed|is not valid YAML"),
        ("a: 1\n" * 300_000, r"has \S+ characters, expected a config of at most"),
        ("seed: 1\0", r"is not valid YAML"),
        ("folds: {num_folds: 1e400}", r"folds\.num_folds"),
        ("seed: 1e9999999", r"seed"),
    ],
    ids=lambda text: text[:20],
)
def test_malicious_yaml_is_rejected(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)

    with rejected(ConfigError, message):
        load_config(tmp_path / "config.yaml")


def test_alias_in_config_is_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "x") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


# --- pickled batches


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", r"it memoizes 2,147,483,647 objects"),
        (b"\x80\x02cnumpy\nndarray\n(\x8a\x05\0\0\0\0\x08tR.", r"TypeError"),
        (b"\x80\x02cnumpy\ndtype\n(X\x01\0\0\0OtR.", r"it requests an array of 'O'"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", r"can't be read"),
        (b"(" * 1_000_000, r"can't be read"),
        (b"I" + b"9" * 1_000_000 + b"\n.", r"can't be read"),
        (b"cos\nsystem\n(S'touch harm'\ntR.", r"it requests os\.system"),
    ],
    ids=["memo", "array", "objects", "length", "marks", "digits", "code"],
)
def test_malicious_batch_is_rejected(data, message):
    with rejected(InputError, message):
        load_batch(data, "data_batch_1", CIFAR10)


# --- files of a run


def test_weights_of_another_model_are_rejected(tmp_path):
    member = MemberConfig(model=ModelConfig(name="tutorial_cnn"))
    model, _ = build_model(member, CIFAR10, torch.device("cpu"))
    weights = {name: torch.zeros(1) for name in model.state_dict()}

    with rejected(TrainingError, r"the weights do not match the model tutorial_cnn: .*size mismatch"):
        build_model(member, CIFAR10, torch.device("cpu"), weights)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99]}}',
        b'{"a":' * 10_000,
        b"\x80\x04cos\nsystem\n(S'touch harm'\ntR.",
    ],
    ids=["terabytes", "shape", "nested", "pickle"],
)
def test_weights_with_false_header_are_rejected(tmp_path, header):
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    with rejected(RunError, r"weights\.safetensors is corrupted"):
        FoldFolder(tmp_path).weights()


def npy(header):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "__import__('os').system('touch harm')",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
    ],
    ids=["terabytes", "objects", "code", "negative"],
)
def test_arrays_with_false_header_are_rejected(tmp_path, header):
    data = npy(header) + b"\x80\x04cos\nsystem\n(S'touch harm'\ntR."
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("ids.npy", data)
        archive.writestr("logits.npy", data)
    with rejected(RunError, r"p\.npz is corrupted"):
        load_predictions(tmp_path / "p.npz")

    make_synthetic_dataset(tmp_path / "input", num_train=10, num_test=5)
    source = find(tmp_path / "input")
    prepare(source, tmp_path / "cache")
    for name in ("ids.npy", "images.npy"):
        good = (tmp_path / "cache" / "train" / name).read_bytes()
        (tmp_path / "cache" / "train" / name).write_bytes(data)
        with rejected(InputError, r"train is corrupted"):
            prepare(source, tmp_path / "cache")
        (tmp_path / "cache" / "train" / name).write_bytes(good)
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../a", "/a", "a\nb", "a\0b", "", ".a", "-a", "ä", "a" * 65, "a b", "a\\b"]
)
def test_run_name_with_another_path_is_rejected(name):
    with rejected(RunError, r"expected 1 to 64 of the characters"):
        check_run_name(name)
