import zlib
from functools import partial

import py7zr
import pytest

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
        [{"id": py7zr.FILTER_COPY}],
    ],
    ids=["lzma2", "lzma1", "bcj+lzma2", "zstd", "copy"],
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

    with pytest.raises(InputError, match=r"test\.7z: it is encrypted with a password"):
        read(path)
