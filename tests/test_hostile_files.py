"""Files made to do harm: each is refused or read within a second of computing and 1 GB of memory, and harms nothing."""

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
from test_png import IMAGE, PNG, chunk

from pipeline.data.torchvision_files import load_batch
from pipeline.demo.dataset import make_synthetic_dataset, write_archive
from pipeline.task import TRAIN_LABELS_CSV, ZIP_NAME
from pipeline.data.image_cache import prepare_images
from pipeline.data.labels import parse_labels
from pipeline.data.decode import decode_png
from pipeline.data.prepare import prepare
from pipeline.data.seven_zip_header import START
from pipeline.data.source import find_source
from pipeline.submission.csv_file import check_submission
from pipeline.config import MemberConfig, ModelConfig
from pipeline.errors import ConfigError, InputError, RunError, TrainingError
from pipeline.learning.train import build_model
from pipeline.config_files import load_config, parse_yaml
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.prediction_files import load_predictions

SECONDS, GIGABYTE = 1.0, 1 << 30
IDS = np.arange(1, 6)


@contextmanager
def bounded():
    """Let what is inside take a second of computing and 1 GB more than there is; more memory is a MemoryError."""
    kilobytes = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (kilobytes * 1024 + GIGABYTE, before[1]))
    began = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert time.process_time() - began < SECONDS


@contextmanager
def refused(error, message):
    """Expect an error of ours with a message, within the bounds."""
    with bounded(), pytest.raises(error, match=message):
        yield


@pytest.fixture
def folder(tmp_path):
    """An input folder with something beside it that must stay as it is, and nothing new beside it."""
    place = tmp_path / "input"
    make_synthetic_dataset(place, num_train=10, num_test=5)
    (tmp_path / "beside").write_text("untouched")
    yield place
    assert sorted(os.listdir(tmp_path)) == ["beside", "input"]
    assert (tmp_path / "beside").read_text() == "untouched"


def members_of(folder):
    with zipfile.ZipFile(folder / ZIP_NAME) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(folder, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / ZIP_NAME, "w", kind) as archive:
        for name, data in members:
            archive.writestr(name, data)


def test_the_bound_of_memory_holds():
    with pytest.raises(MemoryError), bounded():
        bytearray(GIGABYTE + (64 << 20))


# --- zip


@pytest.mark.parametrize("prefix", ["../", "/", "/tmp/", "a/../../", "C:\\"])
def test_members_elsewhere_are_not_taken_for_ours(folder, prefix):
    write_zip(folder, [(prefix + name, data) for name, data in members_of(folder).items()])

    with refused(InputError, r"has neither train\.7z"):
        find_source(folder).ids("train")


def test_a_link_in_a_zip_is_only_text(folder):
    entry = zipfile.ZipInfo("train.7z")
    entry.external_attr = 0o120777 << 16
    write_zip(folder, [(entry, "/etc/passwd")])

    with refused(InputError, r"train\.7z is no whole \.7z archive"):
        find_source(folder).ids("train")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_member_of_a_zip_is_named(folder):
    write_zip(folder, [*members_of(folder).items(), ("train.7z", b"another")])

    with refused(InputError, r"holds 'train\.7z' more than once"):
        find_source(folder).ids("train")


def test_a_wrong_checksum_in_a_zip_is_found(folder):
    data = (folder / ZIP_NAME).read_bytes()
    place = data.index(b"id,label\n1,", data.index(TRAIN_LABELS_CSV.encode())) + len("id,label\n")
    (folder / ZIP_NAME).write_bytes(data[:place] + b"2" + data[place + 1 :])

    with refused(InputError, rf"{TRAIN_LABELS_CSV} is damaged \(Bad CRC-32"):
        find_source(folder).labels()


def test_a_zip_that_lost_its_beginning_is_told(folder):
    """Its members then begin before the file does; found by fuzzing."""
    data = (folder / ZIP_NAME).read_bytes()
    (folder / ZIP_NAME).write_bytes(data[len(data) // 2 :])

    with refused(InputError, rf"{TRAIN_LABELS_CSV} is damaged \(.*download it again"):
        find_source(folder).labels()


def test_a_zip_of_a_million_members_is_refused(folder):
    entry = b"PK\x01\x02" + struct.pack("<6H3L5H2L", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    listing = entry * 1_000_000
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, len(listing), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(listing), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (folder / ZIP_NAME).write_bytes(listing + end64 + locator + end)

    with refused(InputError, r"cifar-10\.zip has a list of members of more than"):
        find_source(folder).ids("train")


def test_a_csv_that_unpacks_to_gigabytes_is_refused(folder):
    members = members_of(folder) | {TRAIN_LABELS_CSV: bytes(64 << 20)}
    write_zip(folder, members.items(), zipfile.ZIP_DEFLATED)

    with refused(InputError, rf"{TRAIN_LABELS_CSV} has more than 33,554,432 bytes"):
        find_source(folder).labels()


def test_a_zip_with_a_password_is_told(folder):
    data = bytearray((folder / ZIP_NAME).read_bytes())
    place = data.index(b"PK\x01\x02")
    while place >= 0:
        local = struct.unpack_from("<L", data, place + 42)[0]
        data[place + 8] |= 1
        data[local + 6] |= 1
        place = data.find(b"PK\x01\x02", place + 4)
    (folder / ZIP_NAME).write_bytes(data)

    with refused(InputError, r"is damaged \(File '\w+\.csv' is encrypted, password required"):
        find_source(folder).labels()


def test_a_zip_in_a_zip_is_not_opened(folder):
    write_zip(folder, [(ZIP_NAME, (folder / ZIP_NAME).read_bytes())])

    with refused(InputError, r"has neither train\.7z"):
        find_source(folder).ids("train")


# --- 7z


def write_7z(folder, files):
    (folder / ZIP_NAME).unlink(missing_ok=True)
    write_archive(folder / "train.7z", dict(files))


def forge(folder, content, name="train/1.png", **claims):
    """Write one member whose header says what it likes."""
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
def test_a_member_with_a_name_that_leads_elsewhere_is_refused(folder, name):
    forge(folder, PNG, name)

    with refused(InputError, r"expected names such as train/1\.png"):
        find_source(folder).ids("train")


def test_a_link_in_an_archive_is_refused(folder, tmp_path):
    write_7z(folder, [])
    (folder / "1.png").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(folder / "train.7z", "w") as archive:
        archive.write(folder / "1.png", "train/1.png")

    with refused(InputError, r"'train/1\.png' with \d+ bytes or a link"):
        find_source(folder).ids("train")


def test_an_archive_in_an_archive_is_no_image(folder):
    write_7z(folder, [("train/1.png", PNG)])
    nested = (folder / "train.7z").read_bytes()
    write_7z(folder, [("train/1.png", nested)])

    with refused(InputError, r"train/1\.png is no PNG: it begins with b.7z"):
        prepare_images(find_source(folder), "train", folder / "cache")
    assert not (folder / "cache" / "train").exists()


def header_of(*parts):
    """A .7z whose header, as it stands, is these bytes."""
    header = b"".join(part if isinstance(part, bytes) else bytes([part]) for part in parts)
    rest = struct.pack("<QQI", 0, len(header), zlib.crc32(header))
    return struct.pack("<6sBBI", b"7z\xbc\xaf\x27\x1c", 0, 4, zlib.crc32(rest)) + rest + header


def number(value):
    return b"\xff" + struct.pack("<Q", value)


def lzma2_header(*, size, properties=b"\x18", packed=10, method=b"!", members=1):
    """One block that says that it is so long, of so many members without names."""
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
        (header_of(1, 5, 3, 0x0E, number(1 << 60)), r"its header ends too soon"),
        (header_of(1, 5, 1, 0x11, 7, 0, b"\x00\xd8a\0\0\0", 0, 0), r"can't decode bytes"),
        (header_of(0x17, lzma2_header(size=1 << 40)[2:-14], 0), r"claims a header of 1,099,511,627,776 bytes"),
        (header_of(9), r"of the unknown kind 9"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", r"it has 8 bytes"),
    ],
)
def test_a_header_that_lies_is_refused(folder, data, message):
    write_7z(folder, [])
    (folder / "train.7z").write_bytes(data)

    with refused(InputError, message):
        find_source(folder).ids("train")


def test_a_header_beyond_the_end_is_refused(folder):
    write_7z(folder, [])
    rest = struct.pack("<QQI", 1 << 60, 100, 0)
    (folder / "train.7z").write_bytes(START.pack(b"7z\xbc\xaf\x27\x1c", zlib.crc32(rest), 1 << 60, 100, 0))

    with refused(InputError, r"it ends before its header"):
        find_source(folder).ids("train")


def test_a_dictionary_of_gigabytes_is_not_taken(folder):
    """The block is short, so the dictionary that its coder asks for (4 GB) can't be needed."""
    forge(folder, PNG, properties=b"\x28")
    source = find_source(folder)

    with bounded():
        assert [(i, source.decode(png).shape) for i, png in source.read("train")] == [(1, (32, 32, 3))]


def test_bytes_beyond_the_declared_members_are_not_decoded(folder):
    """A bomb whose header tells of the first bytes only."""
    forge(folder, PNG + bytes(100 << 20), size=len(PNG))
    source = find_source(folder)

    with bounded():
        assert dict(source.read("train")) == {1: PNG}


# --- PNG


def with_chunk(kind, data):
    return PNG[:33] + chunk(kind, data) + PNG[33:]


def palette_png():
    rows = b"".join(b"\0" + bytes(32) for _ in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 3, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(3)) + chunk(b"IDAT", zlib.compress(rows)) + PNG[-12:]


def interlaced_png():
    """Adam7: seven small images of every eighth, fourth and second pixel."""
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
def test_what_else_stands_in_a_png_changes_no_pixel(data, capfd):
    with bounded():
        assert np.array_equal(decode_png(data), IMAGE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (palette_png(), r"is 8 bit palette, expected 8 bit RGB"),
        (with_chunk(b"acTL", struct.pack(">II", 1000, 0)), r"is an animated PNG, expected one image"),
        (
            PNG[:33] + chunk(b"IDAT", BOMB[: 100 << 10]) + PNG[-12:],
            r"is a corrupt PNG",
        ),
        (PNG[:8] + b"\xff\xff\xff\xffIHDR", r"is a truncated PNG"),
        (PNG[:16] + b"\xff" * 8 + PNG[24:], r"checksum of its 'IHDR' chunk is wrong"),
        (cv2.imencode(".gif", IMAGE)[1].tobytes(), r"is no PNG: it begins with b'GIF"),
    ],
    ids=["palette", "animated", "pixel bomb", "length", "header", "gif"],
)
def test_what_is_no_image_of_ours_is_refused(data, message, capfd):
    with refused(InputError, message):
        decode_png(data)


def test_a_huge_file_and_a_pipe_among_the_images(images_folder, tmp_path):
    folder = tmp_path / "input"
    (folder / "train").mkdir(parents=True)
    with (folder / "train" / "1.png").open("wb") as file:
        file.truncate(20 << 30)
    with refused(InputError, r"1\.png has more than 1,048,576 bytes"):
        list(find_source(folder).read("train"))

    (folder / "train" / "1.png").unlink()
    os.mkfifo(folder / "train" / "1.png")
    with refused(InputError, r"1\.png is no file"):
        find_source(folder).ids("train")


# --- CSV

ROWS = b"id,label\n1,cat\n2,dog\n"


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf" + ROWS, ROWS.replace(b"\n", b"\r\n"), b'id,label\n"1","cat"\n"2",dog\n', ROWS + b"\n\n"],
    ids=["bom", "crlf", "quotes", "empty lines"],
)
def test_labels_that_programs_write_are_read(data):
    with bounded():
        assert parse_labels(data, TRAIN_LABELS_CSV).ids.tolist() == [1, 2]


ODD_IDS = ["1e3", "-1", "+1", "1.0", "٣", "=cmd()", "0", "01", " 1", "1 ", "0x1", "nan", "99999999999999999999", "1\0"]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_odd_id_is_no_label(odd):
    with refused(InputError, r"trainLabels\.csv"):
        parse_labels(f"id,label\n{odd},cat\n".encode(), TRAIN_LABELS_CSV)


@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_odd_id_is_no_submission(odd, tmp_path):
    (tmp_path / "s.csv").write_bytes(f"id,label\n{odd},cat\n".encode())

    with bounded():
        assert check_submission(tmp_path / "s.csv", np.arange(1, 2))


HUGE_CSVS = {
    "one line of 10 MB": b"id,label\n1," + b"a" * 10_000_000,
    "one quoted field of 10 MB": b'id,label\n1,"' + b"a\n" * 1_000_000,
    "a million columns": b"id,label" + b",a" * 1_000_000 + b"\n1,cat\n",
    "rows without end": b"id,label\n" + b"1,cat\n" * 5_000_000,
    "empty lines without end": b"id,label\n" + b"\n" * 30_000_000,
    "carriage returns without end": b"id,label\n" + b"\r" * 30_000_000,
}


@pytest.mark.parametrize("data", HUGE_CSVS.values(), ids=HUGE_CSVS)
def test_a_huge_csv_is_refused(data, tmp_path):
    (tmp_path / "s.csv").write_bytes(data)

    with bounded(), pytest.raises(InputError):
        parse_labels(data, TRAIN_LABELS_CSV)
    with bounded():
        assert check_submission(tmp_path / "s.csv", IDS)


def test_a_submission_without_end_is_refused(tmp_path):
    with (tmp_path / "s.csv").open("wb") as file:
        file.truncate(20 << 30)

    with bounded():
        assert check_submission(tmp_path / "s.csv", IDS) == ["it has more than 33,554,432 bytes"]


# --- YAML

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"with its aliases it has more than 100,000 values"),
        ("seed: &a [*a]", r"an alias stands within what it names"),
        ("[" * 5000, r"line 1: nested more than 50 deep"),
        ("{a: " * 5000, r"line 1: nested more than 50 deep"),
        ("seed: " + "9" * 5000, r"can't be read: Exceeds the limit"),
        ("seed: 2026-99-99", r"can't be read: month must be"),
        ("? [a, b]\n: 1", r"line 1: a key that is no text"),
        ("seed: !!python/name:os.system", r"is not YAML: could not determine a constructor"),
        ("seed: !!binary '%%%'", r"seed|is not YAML"),
        ("a: 1\n" * 300_000, r"has \S+ characters, expected a recipe of at most"),
        ("seed: 1\0", r"is not YAML"),
        ("folds: {num_folds: 1e400}", r"folds\.num_folds"),
        ("seed: 1e9999999", r"seed"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_explodes_or_asks_for_more_is_refused(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)

    with refused(ConfigError, message):
        load_config(tmp_path / "recipe.yaml")


def test_an_alias_in_a_recipe_is_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "x") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


# --- pickled batches


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", r"it remembers 2,147,483,647 things"),
        (b"\x80\x02cnumpy\nndarray\n(\x8a\x05\0\0\0\0\x08tR.", r"TypeError"),
        (b"\x80\x02cnumpy\ndtype\n(X\x01\0\0\0OtR.", r"it asks for an array of 'O'"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", r"can't be read"),
        (b"(" * 1_000_000, r"can't be read"),
        (b"I" + b"9" * 1_000_000 + b"\n.", r"can't be read"),
        (b"cos\nsystem\n(S'touch harm'\ntR.", r"it asks for os\.system"),
    ],
    ids=["memo", "array", "objects", "length", "marks", "digits", "code"],
)
def test_a_batch_that_asks_for_more_is_refused(data, message):
    with refused(InputError, message):
        load_batch(data, "data_batch_1")


# --- what a run keeps


def test_weights_of_another_network_are_refused(tmp_path):
    member = MemberConfig(model=ModelConfig(name="tutorial_cnn"))
    lies = {name: torch.zeros(1) for name in build_model(member, torch.device("cpu")).state_dict()}

    with refused(TrainingError, r"the weights are not of tutorial_cnn: .*size mismatch"):
        build_model(member, torch.device("cpu"), lies)


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
def test_weights_that_lie_are_refused(tmp_path, header):
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    with refused(RunError, r"weights\.safetensors is damaged"):
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
def test_arrays_that_lie_are_refused(tmp_path, header):
    data = npy(header) + b"\x80\x04cos\nsystem\n(S'touch harm'\ntR."
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("ids.npy", data)
        archive.writestr("probabilities.npy", data)
    with refused(RunError, r"p\.npz is damaged"):
        load_predictions(tmp_path / "p.npz")

    make_synthetic_dataset(tmp_path / "input", num_train=10, num_test=5)
    prepare(tmp_path / "input", tmp_path / "cache")
    for name in ("ids.npy", "images.npy"):
        good = (tmp_path / "cache" / "train" / name).read_bytes()
        (tmp_path / "cache" / "train" / name).write_bytes(data)
        with refused(InputError, r"train is damaged"):
            prepare(tmp_path / "input", tmp_path / "cache")
        (tmp_path / "cache" / "train" / name).write_bytes(good)
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../a", "/a", "a\nb", "a\0b", "", ".a", "-a", "ä", "a" * 65, "a b", "a\\b"]
)
def test_a_run_can_not_stand_elsewhere(tmp_path, name):
    with refused(RunError, r"a run's name has 1 to 64"):
        RunFolder(tmp_path, name)
