import errno
import os
import re
import shutil

import pytest
from conftest import NUM_TRAIN
from test_source import content, find, read

from pipeline.errors import InputError


def test_folder_that_cant_be_listed_is_named(images_folder, monkeypatch):
    def fail(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", fail)
    source = find(images_folder)

    for use in (source.ids, source.fingerprint, lambda split: read(source, split)):
        with pytest.raises(InputError, match=rf"{images_folder}/train can't be read: permission denied"):
            use("train")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to(path), "is a loop of symbolic links; extract it again"),
        (lambda path: path.symlink_to("/no/such"), "is a link to /no/such, which does not exist; extract it again"),
    ],
    ids=["loop", "broken link"],
)
def test_broken_link_among_the_images_is_named(images_folder, tmp_path, make, message):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    (folder / "train" / "3.png").unlink()
    make(folder / "train" / "3.png")

    with pytest.raises(InputError, match=rf"input/train/3\.png {message}"):
        find(folder).fingerprint("train")


@pytest.mark.parametrize("names", [[], ["airplane/1.png"], ["1.jpg", "2.jpg"], [".DS_Store", "._1.png"]])
def test_folder_without_images_lists_what_it_contains(tmp_path, names):
    (tmp_path / "train").mkdir()
    for name in names:
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).touch()
    found = {"airplane/1.png": "airplane", "1.jpg": "1.jpg, 2.jpg", ".DS_Store": ".DS_Store, ._1.png"}
    found = found[names[0]] if names else "nothing"

    with pytest.raises(InputError, match=rf"train contains no images: found {re.escape(found)}, .*extract its archive"):
        find(tmp_path).ids("train")


def test_images_in_a_folder_within_the_folder_are_to_be_moved(tmp_path):
    (tmp_path / "train" / "train").mkdir(parents=True)

    with pytest.raises(InputError, match=rf"move the files of {tmp_path}/train/train up into {tmp_path}/train$"):
        find(tmp_path).ids("train")


def test_files_that_macos_and_windows_add_are_left_out(images_folder, tmp_path, zip_folder):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    before = find(folder).fingerprint("train")
    for name in ("._1.png", "._x.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / "train" / name).write_bytes(b"x")
    (folder / "__MACOSX").mkdir()

    assert content(folder) == content(zip_folder)
    assert find(folder).fingerprint("train") == before


@pytest.mark.parametrize("change", ["content", "time", "size", "name", "swap"])
def test_image_that_is_rewritten_in_place_changes_the_fingerprint(images_folder, tmp_path, change):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    before, folder_time = find(folder).fingerprint("train"), (folder / "train").stat()
    one, two = folder / "train" / "1.png", folder / "train" / "2.png"
    status = one.stat()
    if change == "content":
        one.write_bytes(bytes(status.st_size))
    elif change == "time":
        os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    elif change == "size":
        one.write_bytes(one.read_bytes() + b"x")
        os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "name":
        one.rename(folder / "train" / "201.png")
    else:
        one.rename(folder / "train" / "x")
        two.rename(one)
        (folder / "train" / "x").rename(two)
    os.utime(folder / "train", ns=(folder_time.st_atime_ns, folder_time.st_mtime_ns))
    after = find(folder).fingerprint("train")

    assert after != before
    assert set(after) >= {"name", "size", "mtime_ns"}
    assert (after["name"], after["size"]) == ("train", NUM_TRAIN)
    if change == "content":
        assert after["mtime_ns"] == one.stat().st_mtime_ns
