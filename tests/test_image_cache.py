import errno
import json
import os
import resource
import shutil

import numpy as np
import pytest
from conftest import NUM_TEST, NUM_TRAIN

from pipeline.data import image_cache as images_module
from pipeline.task import ZIP_NAME
from pipeline.data.image_cache import cache_folder, prepare_images
from pipeline.data.source import find_source
from pipeline.errors import InputError


def prepare(folder, cache, split="train", **options):
    return prepare_images(find_source(folder), split, cache, **options)


def test_images_stand_at_the_rows_of_their_ids(zip_folder, tmp_path):
    source = find_source(zip_folder)
    store = prepare(zip_folder, tmp_path)

    assert store.images.shape == (NUM_TRAIN, 32, 32, 3)
    assert store.images.dtype == np.uint8
    for number, data in source.read("train"):
        assert np.array_equal(store.images[np.searchsorted(store.ids, number)], source.decode(data))


def test_a_second_call_decodes_nothing(zip_folder, tmp_path, monkeypatch):
    first = prepare(zip_folder, tmp_path)
    monkeypatch.setattr(images_module, "_make_store", lambda *_: pytest.fail("decoded again"))

    second = prepare(zip_folder, tmp_path)

    assert np.array_equal(first.images, second.images)
    assert first.checksum == second.checksum


def test_the_images_are_only_read(zip_folder, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        prepare(zip_folder, tmp_path).images[0] = 0


def test_progress_counts_to_the_end(zip_folder, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(images_module, "CHUNK", 7)
    prepare(zip_folder, tmp_path, split="test", on_images=lambda done, total: heard.append((done, total)))

    assert heard == [(min(done, NUM_TEST), NUM_TEST) for done in range(7, NUM_TEST + 7, 7)]


def test_a_store_of_other_files_is_kept_and_told(zip_folder, tmp_path):
    folder = shutil.copytree(zip_folder, tmp_path / "input")
    store = prepare(folder, tmp_path / "cache")
    os.utime(folder / ZIP_NAME, (1, 1))

    with pytest.raises(InputError, match=r"was made from cifar-10\.zip .*the input is now cifar-10\.zip .*--again"):
        prepare(folder, tmp_path / "cache")
    assert np.array_equal(np.load(tmp_path / "cache" / "train" / "images.npy"), store.images)
    assert len(prepare(folder, tmp_path / "cache", again=True).ids) == NUM_TRAIN


@pytest.mark.parametrize("name", ["images.npy", "ids.npy"])
@pytest.mark.parametrize("fault", ["cut", "flipped", "deleted"])
def test_a_damaged_store_is_never_used(zip_folder, tmp_path, name, fault):
    prepare(zip_folder, tmp_path)
    path = tmp_path / "train" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    if fault == "deleted":
        path.unlink()
    else:
        path.write_bytes(data if fault == "flipped" else data[:-5])
        if name == "ids.npy":
            os.utime(path.with_name("images.npy"))

    with pytest.raises(InputError, match=r"train is damaged .*prepare --again"):
        prepare(zip_folder, tmp_path)


def test_what_broke_off_is_made_anew(zip_folder, tmp_path):
    whole = prepare(zip_folder, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "train", tmp_path / "cache" / "train.partial")
    (tmp_path / "cache" / "train.partial" / "manifest.json").unlink()

    assert np.array_equal(prepare(zip_folder, tmp_path / "cache").images, whole.images)
    assert not (tmp_path / "cache" / "train.partial").exists()


def test_a_corrupt_image_is_named_and_nothing_is_left(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    path = folder / "train" / "77.png"
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(InputError, match=r"input: train/77\.png is a truncated PNG"):
        prepare(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_image_that_can_not_be_read_is_no_full_disk(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    (folder / "train" / "77.png").unlink()
    (folder / "train" / "77.png").mkdir()

    with pytest.raises(InputError, match=r"train/77\.png is no file; unpack it again"):
        prepare(folder, tmp_path / "cache")


def test_a_full_disk_is_one_clear_error(zip_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"can't be written .*No space left on device.*images\.cache_dir=DIR"):
        prepare(zip_folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_manifest_tells_where_the_store_is_from(zip_folder, tmp_path):
    prepare(zip_folder, tmp_path)

    manifest = json.loads((tmp_path / "train" / "manifest.json").read_text())
    assert manifest["num_images"] == NUM_TRAIN
    assert manifest["made_from"]["source"]["size"] == (zip_folder / ZIP_NAME).stat().st_size


def test_the_cache_is_in_the_input_folder_unless_that_is_read_only(tmp_path, monkeypatch):
    assert cache_folder(None, tmp_path) == tmp_path / ".cache"
    assert cache_folder(tmp_path / "other", tmp_path) == tmp_path / "other"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert str(cache_folder(None, tmp_path)) == "input/.cache"


def test_a_disk_that_takes_a_part_of_an_image_is_told(zip_folder, tmp_path):
    """The write that crosses a limit is cut short and raises nothing; found by `make faults`."""
    size = (200 * 32 * 32 * 3) - 1000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(InputError, match=r"can't be written to .*File too large"):
            prepare(zip_folder, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list((tmp_path / "cache").iterdir()) == []
    assert len(prepare(zip_folder, tmp_path / "cache").ids) == 200
