import os
import shutil
import tarfile

import pytest
from test_source import find

from pipeline.errors import InputError


def make_tar(batches_folder):
    with tarfile.open(batches_folder.parent / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(batches_folder, "cifar-10-batches-py")


def test_complete_tar_is_read_if_the_folder_beside_it_lacks_a_batch(batches_folder, tmp_path):
    make_tar(batches_folder)
    assert find(tmp_path).name == str(batches_folder)
    batches_folder.joinpath("test_batch").unlink()

    assert len(find(tmp_path).ids("test")) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("x"), "is a file, expected the folder of the batches"),
        (lambda path: path.symlink_to(path), "is a loop of symbolic links, expected the folder"),
        (lambda path: path.symlink_to("/no/such/folder"), "is a link to /no/such/folder, which does not exist"),
    ],
    ids=["file", "loop", "broken link"],
)
def test_other_kind_of_path_than_the_batches_is_named(tmp_path, make, message):
    make(tmp_path / "cifar-10-batches-py")

    with pytest.raises(InputError, match=rf"cifar-10-batches-py {message}"):
        find(tmp_path).fingerprint("train")


def test_folder_with_the_name_of_the_tar_is_named(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").mkdir()

    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz is a folder, expected a file"):
        find(tmp_path).fingerprint("train")


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_tar_is_one_line(batches_folder, tmp_path, size):
    make_tar(batches_folder)
    shutil.rmtree(batches_folder)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(InputError, match=r"tar\.gz is truncated or corrupted \([^\n]*\); download it again$"):
        find(tmp_path).ids("train")


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_4"])
def test_every_batch_is_in_the_fingerprint(batches_folder, tmp_path, name):
    before = {split: find(tmp_path).fingerprint(split) for split in ("train", "test")}
    os.utime(batches_folder / name, (1, 1))

    assert find(tmp_path).fingerprint("train") != before["train"]
    assert find(tmp_path).fingerprint("test") == before["test"]
