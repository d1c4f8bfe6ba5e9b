import zlib
from functools import partial

import py7zr
import pytest

from pipeline.data.archive import SevenZip
from pipeline.demo.dataset import write_archive
from pipeline.errors import InputError

MEMBERS = {f"test/{i}.png": bytes([i % 256]) * (i * 7 + 1) + b"tail" for i in range(1, 400)}


def read(path):
    return list(SevenZip(partial(path.open, "rb"), path.name).read())


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
def test_members_come_whole_in_the_archives_order(tmp_path, filters):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(data, name)

    assert read(path) == list(MEMBERS.items())


def test_several_blocks_are_read_at_once(tmp_path):
    path, members = tmp_path / "test.7z", list(MEMBERS.items())
    write_archive(path, dict(members[:100]))
    for start in (100, 200, 300):
        with py7zr.SevenZipFile(path, "a") as archive:
            for name, data in members[start : start + 100]:
                archive.writestr(data, name)

    assert sorted(read(path)) == sorted(members)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_archive_is_named(tmp_path, share):
    path = tmp_path / "test.7z"
    write_archive(path, MEMBERS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    with pytest.raises(InputError, match=r"test\.7z is no whole \.7z archive.*download it again"):
        read(path)


def test_a_web_page_is_no_archive(tmp_path):
    path = tmp_path / "test.7z"
    path.write_text("<html>Please log in</html>")

    with pytest.raises(InputError, match=r"test\.7z is no whole \.7z archive"):
        read(path)


def test_a_flipped_byte_is_found(tmp_path):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 1}]) as archive:
        for name, data in MEMBERS.items():
            # Bytes that do not compress, so that a flip changes a member and not the stream's structure.
            archive.writestr(b"".join(zlib.crc32(data + bytes([i])).to_bytes(4) for i in range(200)), name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(InputError, match=r"wrong checksum|no whole \.7z archive"):
        read(path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "test.7z"
    write_archive(path, {"test/1.png": bytes(3 << 20)})

    with pytest.raises(InputError, match=r"'test/1\.png' with 3145728 bytes, expected images of 1 to 1048576"):
        read(path)


@pytest.mark.parametrize("locks_header", [True, False])
def test_a_password_is_named(tmp_path, locks_header):
    path = tmp_path / "test.7z"
    with py7zr.SevenZipFile(path, "w", password="secret", header_encryption=locks_header) as archive:
        archive.writestr(b"data", "test/1.png")

    with pytest.raises(InputError, match=r"test\.7z: it is locked with a password"):
        read(path)
