import threading
import time

import pytest

from pipeline.data import prepare as prepare_module
from pipeline.data.prepare import prepare
from pipeline.data.source import find_source
from pipeline.errors import InputError
from pipeline.task import CIFAR10, Split


def test_both_splits_are_decoded_once(zip_folder, tmp_path):
    source = find_source(zip_folder, CIFAR10)
    first = prepare(source, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    second = prepare(source, tmp_path)

    assert set(first) == {"train", "test"}
    assert {path.parent.name for path in times} == {"train", "test"}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == times
    for split, store in first.items():
        assert second[split].checksum == store.checksum


@pytest.mark.parametrize("error", [InputError("train is corrupted"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_error_in_one_split_cancels_the_other(zip_folder, tmp_path, monkeypatch, error):
    both_started, raised = threading.Barrier(2), []

    def prepare_images(source, split: Split, cache_dir, *, again, check_ids, on_progress):
        both_started.wait()
        if split == "train":
            raise error
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                on_progress(1, 2)
        except Exception as cancelled:
            raised.append(type(cancelled).__name__)
            raise

    monkeypatch.setattr(prepare_module, "prepare_images", prepare_images)
    with pytest.raises(type(error)):
        prepare(find_source(zip_folder, CIFAR10), tmp_path)

    assert raised == ["CancelledError"]
