import errno
import io
import os
import struct
import zlib
from functools import partial

import py7zr
import pytest

from pipeline.cores import available_cores
from pipeline.data.seven_zip_reader import SevenZipReader
from pipeline.demo.dataset import write_archive
from pipeline.errors import InputError

MEMBERS = {f"test/{i}.png": bytes([i % 256]) * (i * 7 + 1) + b"tail" for i in range(1, 400)}


def read(path):
    with SevenZipReader(partial(path.open, "rb"), path.name).read() as members:
        return list(members)


@pytest.mark.parametrize(
    "filters",
    [
        [{"id": py7zr.FILTER_LZMA2, "preset": 1}],
        [{"id": py7zr.FILTER_LZMA, "preset": 6}],
        [{"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA2, "preset": 1}],
        [{"id": py7zr.FILTER_ZSTD, "level": 3}],
        [{"id": py7zr.FILTER_DELTA, "dist": 3}, {"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA2, "preset": 1}],
        [{"id": py7zr.FILTER_ARM}, {"id": py7zr.FILTER_LZMA, "preset": 1}],
        [{"id": py7zr.FILTER_COPY}],
        [{"id": py7zr.FILTER_BZIP2}],
        [{"id": py7zr.FILTER_DEFLATE}],
        [{"id": py7zr.FILTER_BROTLI, "level": 3}],
    ],
    ids=[
        *("lzma2", "lzma1", "bcj+lzma2", "zstd", "delta+bcj+lzma2", "arm+lzma1", "copy", "bzip2", "deflate", "brotli"),
    ],
)
def test_members_are_complete_and_in_archive_order(tmp_path, filters):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(data, name)

    assert read(path) == list(MEMBERS.items())


def test_archive_of_several_blocks_is_read(tmp_path):
    path, members = tmp_path / "test.7z", list(MEMBERS.items())
    write_archive(path, dict(members[:100]))
    for start in (100, 200, 300):
        with py7zr.SevenZipFile(path, "a") as archive:
            for name, data in members[start : start + 100]:
                archive.writestr(data, name)

    assert sorted(read(path)) == sorted(members)


def archive_of(*coders, num_packed=1, bonds=None):
    """A .7z with one block of these coders, each its flags, method, inputs and properties as in a header."""
    text = "train/1.png\0".encode("utf-16-le")
    bonds = bonds or [(index, index - 1) for index in range(1, len(coders))]
    indices = bytes(range(num_packed)) if num_packed > 1 else b""
    block = bytes([len(coders)]) + b"".join(coders) + bytes(sum(bonds, ())) + indices
    streams = bytes([6, 0, num_packed, 9, *[5] * num_packed, 0, 7, 11, 1, 0]) + block
    sizes = bytes([12, *[5] * len(coders), 0, 8, 0, 0])
    header = bytes([1, 4]) + streams + sizes + bytes([5, 1, 0x11, len(text) + 1, 0]) + text + bytes(2)
    rest = struct.pack("<QQI", 5 * num_packed, len(header), zlib.crc32(header))
    start = struct.pack("<6sBBI", b"7z\xbc\xaf\x27\x1c", 0, 4, zlib.crc32(rest)) + rest
    return start + b"12345" * num_packed + header


def coder(method, properties=b"", num_inputs=1):
    """One coder of `archive_of`, its method in hexadecimal."""
    method = bytes.fromhex(method)
    inputs = bytes([num_inputs, 1]) if num_inputs > 1 else b""
    flags = len(method) | (0x10 if inputs else 0) | (0x20 if properties else 0)
    return bytes([flags]) + method + inputs + (bytes([len(properties)]) + properties if properties else b"")


LZMA2, BZIP2 = coder("21", b"\x18"), coder("040202")


def test_archive_of_one_stored_member_is_read(tmp_path):
    path = tmp_path / "test.7z"
    path.write_bytes(archive_of(coder("00")))

    assert read(path) == [("train/1.png", b"12345")]


@pytest.mark.parametrize(
    ("data", "methods"),
    [
        (archive_of(LZMA2, coder("0a")), "ARM64"),
        (archive_of(LZMA2, coder("0b")), "RISCV"),
        (archive_of(coder("020302")), "SWAP2"),
        (archive_of(LZMA2, coder("020304")), "SWAP4"),
        (archive_of(coder("030401", bytes(5))), "PPMd"),
        (archive_of(coder("04f71104", bytes(3))), "LZ4"),
        (archive_of(coder("04f71106", bytes(3))), "Lizard"),
        (archive_of(coder("0a0b0c")), "the method 0a0b0c"),
        (archive_of(coder("030101", bytes([8, 0, 0, 1, 0]))), "LZMA with lc + lp over 4"),
        (archive_of(BZIP2, coder("03", b"\x02")), "BZip2 and Delta"),
        (archive_of(coder("03030103"), LZMA2), "BCJ and LZMA2"),
        (archive_of(LZMA2, *[coder("03030103")] * 4), "LZMA2 and BCJ"),
        (
            archive_of(
                LZMA2, LZMA2, LZMA2, coder("0303011b", num_inputs=4), num_packed=4, bonds=[(3, 0), (4, 1), (5, 2)]
            ),
            "BCJ2",
        ),
        (archive_of(LZMA2, coder("0a0b", num_inputs=2), num_packed=2), "the method 0a0b"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_method_is_named_when_the_archive_is_opened(data, methods):
    with pytest.raises(InputError) as error:
        SevenZipReader(lambda: io.BytesIO(data), "train.7z")

    assert str(error.value) == (
        f"train.7z: it is compressed with {methods}, which is not supported; extract the files to a new folder and "
        "give it with --input, or compress them again with LZMA2"
    )


@pytest.mark.parametrize(
    "filters",
    [[{"id": py7zr.FILTER_ZSTD, "level": 3}], [{"id": py7zr.FILTER_BROTLI, "level": 3}]],
    ids=["zstd", "brotli"],
)
def test_frames_that_threads_have_written_are_not_called_corrupted(tmp_path, filters):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        archive.writestr(b"not an image", "test/1.png")
    data = path.read_bytes()
    path.write_bytes(data[:32] + b"\x50\x2a\x4d\x18" + data[36:])

    with pytest.raises(InputError, match=r"compressed with \w+ in several frames, which is not supported"):
        read(path)


@pytest.mark.parametrize(("method", "name"), [("04f71101", "Zstandard"), ("04f71102", "Brotli")])
def test_newer_version_of_a_method_is_not_called_corrupted(tmp_path, method, name):
    path = tmp_path / "test.7z"
    path.write_bytes(archive_of(coder(method, bytes([99, 0, 1]))))

    with pytest.raises(InputError, match=rf"test\.7z: it is compressed with {name}, which is not supported"):
        read(path)


class CountingFile(io.BytesIO):
    """Counts how often it is opened, and how often a read goes back."""

    opened = backward = 0

    def __init__(self, data):
        super().__init__(data)
        CountingFile.opened += 1

    def seek(self, offset, whence=0):
        CountingFile.backward += offset < self.tell()
        return super().seek(offset, whence)


def test_blocks_are_read_forwards_by_one_handle_per_core(tmp_path):
    """As a compressed zip around them is decoded from its start at each step back."""
    path = tmp_path / "test.7z"
    for block in range(40):
        with py7zr.SevenZipFile(path, "a" if block else "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 1}]) as file:
            file.writestr(bytes([block]) * 100, f"test/{block + 1}.png")
    reader = SevenZipReader(partial(CountingFile, path.read_bytes()), "test.7z")
    CountingFile.opened = CountingFile.backward = 0

    with reader.read() as members:
        assert len(dict(members)) == 40
    assert CountingFile.opened <= available_cores()
    assert CountingFile.backward == 0


@pytest.mark.parametrize("filters", [[{"id": py7zr.FILTER_LZMA2, "preset": 1}], [{"id": py7zr.FILTER_COPY}]])
def test_files_that_macos_and_windows_add_are_left_out(tmp_path, filters):
    path = tmp_path / "test.7z"
    clutter = {
        "test/.DS_Store": b"",
        "test/._1.png": b"x",
        "__MACOSX/test/1.png": b"x",
        "test/Thumbs.db": bytes(3 << 20),
        "test/desktop.ini": b"x",
    }
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        for name, data in [*clutter.items(), *MEMBERS.items(), ("test/thumbs.db", b"x")]:
            archive.writestr(data, name)

    assert SevenZipReader(partial(path.open, "rb"), path.name).names() == list(MEMBERS)
    assert read(path) == list(MEMBERS.items())


class FailingFile(io.BytesIO):
    """A file on a disk that fails after the first bytes."""

    def read(self, size=-1):
        if self.tell() > 16:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("filters", [[{"id": py7zr.FILTER_LZMA2, "preset": 1}], [{"id": py7zr.FILTER_COPY}]])
def test_disk_error_is_not_called_a_corrupted_archive(tmp_path, filters):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        archive.writestr(b"not an image", "test/1.png")
    reader = SevenZipReader(partial(path.open, "rb"), path.name)
    reader._open = partial(FailingFile, path.read_bytes())

    with pytest.raises(InputError) as error, reader.read() as members:
        list(members)
    assert str(error.value).startswith("test.7z can't be read: the disk or network drive has failed")
    assert "corrupted" not in str(error.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG])
def test_archive_that_cant_be_opened_is_not_called_corrupted(number):
    def fail():
        raise OSError(number, os.strerror(number), "input/test.7z")

    with pytest.raises(InputError, match=r"^input/test\.7z can't be read: ") as error:
        SevenZipReader(fail, "test.7z")
    assert "corrupted" not in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 0.99])
def test_truncated_archive_is_rejected(tmp_path, fraction):
    path = tmp_path / "test.7z"
    write_archive(path, MEMBERS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

    with pytest.raises(InputError, match=r"test\.7z is not a valid \.7z archive.*download it again"):
        read(path)


def test_web_page_is_not_an_archive(tmp_path):
    path = tmp_path / "test.7z"
    path.write_text("<html>Please log in</html>")

    with pytest.raises(InputError, match=r"test\.7z is not a valid \.7z archive"):
        read(path)


def test_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 1}]) as archive:
        for name, data in MEMBERS.items():
            # Incompressible bytes, so that a flip changes a member and not the stream's structure.
            archive.writestr(b"".join(zlib.crc32(data + bytes([i])).to_bytes(4) for i in range(200)), name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(InputError, match=r"wrong checksum|not a valid \.7z archive"):
        read(path)


def test_decompression_bomb_is_rejected_before_decoding(tmp_path):
    path = tmp_path / "test.7z"
    write_archive(path, {"test/1.png": bytes(3 << 20)})

    with pytest.raises(InputError, match=r"'test/1\.png' with 3145728 bytes, expected images of 1 to 1048576"):
        read(path)


@pytest.mark.parametrize("encrypts_header", [True, False])
def test_encrypted_archive_is_rejected(tmp_path, encrypts_header):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", password="secret", header_encryption=encrypts_header) as archive:
        archive.writestr(b"data", "test/1.png")

    with pytest.raises(InputError, match=r"test\.7z: it is encrypted with a password, which is not supported"):
        read(path)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"PK\3\4", "a zip"), (b"MZ", "a program that extracts itself"), (b"Rar!", r"a \.rar archive")]
)
def test_archive_of_another_format_is_named_as_what_it_is(tmp_path, start, kind):
    (tmp_path / "train.7z").write_bytes(start + bytes(100))

    with pytest.raises(InputError, match=rf"it is {kind}, not a \.7z archive, which is not supported; extract"):
        read(tmp_path / "train.7z")
