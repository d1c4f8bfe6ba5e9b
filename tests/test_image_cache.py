import errno
import json
import logging
import os
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import NUM_TEST, NUM_TRAIN

from pipeline.data import image_cache
from pipeline.data.image_cache import cache_folder, prepare_images
from pipeline.data.source import find_source
from pipeline.errors import InputError
from pipeline.locks import file_lock
from pipeline.task import CIFAR10


def prepare(folder, cache_dir, split="train", **options):
    return prepare_images(find_source(folder, CIFAR10), split, cache_dir, **options)


def test_image_rows_match_ids(zip_folder, tmp_path):
    source = find_source(zip_folder, CIFAR10)
    store = prepare(zip_folder, tmp_path)

    assert store.images.shape == (NUM_TRAIN, *CIFAR10.image_shape)
    assert store.images.dtype == np.uint8
    with source.read("train") as images:
        for image_id, data in images:
            assert np.array_equal(store.images[np.searchsorted(store.ids, image_id)], source.decode(data))


def test_second_call_decodes_nothing(zip_folder, tmp_path, monkeypatch):
    first = prepare(zip_folder, tmp_path)
    monkeypatch.setattr(image_cache, "_make_store", lambda *_: pytest.fail("decoded again"))

    second = prepare(zip_folder, tmp_path)

    assert np.array_equal(first.images, second.images)
    assert first.checksum == second.checksum


def test_of_several_jobs_at_once_one_decodes_and_the_others_use_its_images(zip_folder, tmp_path, monkeypatch):
    made, make_store = [], image_cache._make_store

    def count(*arguments):
        made.append(1)
        time.sleep(0.3)
        make_store(*arguments)

    monkeypatch.setattr(image_cache, "_make_store", count)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: prepare(zip_folder, tmp_path), range(4)))

    assert len(made) == 1
    assert len({store.checksum for store in stores}) == 1
    assert all(store.images.shape[0] == NUM_TRAIN for store in stores)


def test_partial_folder_of_a_killed_process_is_removed(zip_folder, tmp_path):
    for name in ("train.4711.partial", "test.4711.partial", "train.of-the-user.partial"):
        (tmp_path / name).mkdir()
    prepare(zip_folder, tmp_path)

    assert {path.name for path in tmp_path.glob("[!.]*")} == {"train", "test.4711.partial", "train.of-the-user.partial"}


@pytest.mark.parametrize("name", ["1.png", "images.txt"])
def test_folder_of_the_user_in_the_place_of_the_cache_is_left_as_it_is(zip_folder, tmp_path, name):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / name).write_bytes(b"of the user")
    for again in (False, True):
        with pytest.raises(InputError, match=rf"train contains {name}, .*choose another folder with --set"):
            prepare(zip_folder, tmp_path, again=again)

    assert (tmp_path / "train" / name).read_bytes() == b"of the user"


def test_waiting_for_another_process_ends_with_an_error_of_the_progress_callback(zip_folder, tmp_path):
    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    with file_lock(tmp_path / ".train.lock"), pytest.raises(StopError):
        prepare(zip_folder, tmp_path, on_progress=stop)


def test_decoded_images_in_a_read_only_folder_need_no_lock(zip_folder, tmp_path, monkeypatch):
    first = prepare(zip_folder, tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(image_cache, "file_lock", lambda *_, **__: pytest.fail("locked"))

    assert prepare(zip_folder, tmp_path).checksum == first.checksum


def test_images_are_read_where_the_file_system_has_no_memory_maps(zip_folder, tmp_path, monkeypatch, caplog):
    first, load = prepare(zip_folder, tmp_path), np.load

    def refuse_maps(path, mmap_mode=None, **options):
        if mmap_mode is not None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))
        return load(path, **options)

    monkeypatch.setattr(np, "load", refuse_maps)
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)

    assert np.array_equal(prepare(zip_folder, tmp_path).images, first.images)
    assert "has no memory maps (No such device)" in caplog.text


def test_images_are_read_only(zip_folder, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        prepare(zip_folder, tmp_path).images[0] = 0


def test_progress_counts_all_images(zip_folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(image_cache, "CHUNK_SIZE", 7)
    prepare(zip_folder, tmp_path, split="test", on_progress=lambda done, total: calls.append((done, total)))

    assert calls == [(min(done, NUM_TEST), NUM_TEST) for done in range(7, NUM_TEST + 7, 7)]


def test_store_of_other_files_is_kept_and_reported(zip_folder, tmp_path):
    folder = shutil.copytree(zip_folder, tmp_path / "input")
    store = prepare(folder, tmp_path / "cache")
    os.utime(folder / CIFAR10.zip_name, (1, 1))

    with pytest.raises(InputError, match=r"was made from cifar-10\.zip .*the input is now cifar-10\.zip .*--again"):
        prepare(folder, tmp_path / "cache")
    assert np.array_equal(np.load(tmp_path / "cache" / "train" / "images.npy"), store.images)
    assert len(prepare(folder, tmp_path / "cache", again=True).ids) == NUM_TRAIN


@pytest.mark.parametrize("name", ["images.npy", "ids.npy"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_corrupted_store_is_rejected(zip_folder, tmp_path, name, damage):
    prepare(zip_folder, tmp_path)
    path = tmp_path / "train" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flipped" else data[:-5])
        if name == "ids.npy":
            os.utime(path.with_name("images.npy"))

    with pytest.raises(InputError, match=r"train is corrupted .*prepare --again"):
        prepare(zip_folder, tmp_path)


def test_interrupted_store_is_decoded_again(zip_folder, tmp_path):
    complete = prepare(zip_folder, tmp_path / "complete")
    shutil.copytree(tmp_path / "complete" / "train", tmp_path / "cache" / "train.4711.partial")
    (tmp_path / "cache" / "train.4711.partial" / "manifest.json").unlink()

    assert np.array_equal(prepare(zip_folder, tmp_path / "cache").images, complete.images)
    assert not (tmp_path / "cache" / "train.4711.partial").exists()


def test_corrupted_image_is_named_and_no_store_is_left(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    path = folder / "train" / "77.png"
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(InputError, match=r"input: train/77\.png is a truncated PNG"):
        prepare(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_unreadable_image_is_not_reported_as_a_full_disk(images_folder, tmp_path):
    folder = shutil.copytree(images_folder, tmp_path / "input")
    (folder / "train" / "77.png").unlink()
    (folder / "train" / "77.png").mkdir()

    with pytest.raises(InputError, match=r"train/77\.png is not a file; extract it again"):
        prepare(folder, tmp_path / "cache")


def test_full_disk_is_reported(zip_folder, tmp_path, monkeypatch):
    def raise_no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(image_cache, "_write_at", raise_no_space)
    with pytest.raises(InputError, match=r"can't be written .*No space left on device.*images\.cache_dir=DIR"):
        prepare(zip_folder, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_manifest_describes_the_source(zip_folder, tmp_path):
    prepare(zip_folder, tmp_path)

    manifest = json.loads((tmp_path / "train" / "manifest.json").read_text())
    assert manifest["num_images"] == NUM_TRAIN
    assert manifest["made_from"]["source"]["size"] == (zip_folder / CIFAR10.zip_name).stat().st_size


def test_cache_is_in_the_input_folder_unless_that_is_read_only(tmp_path, monkeypatch):
    assert cache_folder(None, tmp_path) == tmp_path / ".cache"
    assert cache_folder(tmp_path / "other", tmp_path) == tmp_path / "other"
    monkeypatch.setattr(os, "access", lambda *_: False)
    first, second = (cache_folder(None, tmp_path / name) for name in ("one/data", "two/data"))
    assert first.parent == second.parent == Path("input/.cache")
    assert first.name.startswith("data-")
    assert first != second


def test_complete_cache_in_a_read_only_input_folder_is_used(zip_folder, tmp_path, monkeypatch):
    for split in ("train", "test"):
        prepare_images(find_source(zip_folder, CIFAR10), split, tmp_path / ".cache")
    monkeypatch.setattr(os, "access", lambda *_: False)

    assert cache_folder(None, tmp_path) == tmp_path / ".cache"


def test_partial_write_is_reported(zip_folder, tmp_path):
    """The write that crosses a size limit writes a part and raises nothing; found by `make faults`."""
    size = NUM_TRAIN * int(np.prod(CIFAR10.image_shape)) - 1000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(InputError, match=r"can't be written to .*File too large"):
            prepare(zip_folder, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert list((tmp_path / "cache").glob("[!.]*")) == []
    assert len(prepare(zip_folder, tmp_path / "cache").ids) == NUM_TRAIN
