import threading
import time

import pytest

from pipeline.data import prepare as module
from pipeline.task import Split
from pipeline.data.prepare import prepare
from pipeline.errors import InputError


def test_both_splits_are_decoded_once(zip_folder, tmp_path, caplog, monkeypatch):
    first = prepare(zip_folder, tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = prepare(zip_folder, tmp_path)

    assert set(first) == {"train", "test"}
    assert {path.parent.name for path in made} == {"train", "test"}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == made
    for split, store in first.items():
        assert again[split].checksum == store.checksum


@pytest.mark.parametrize("fault", [InputError("train is broken"), KeyboardInterrupt()], ids=["fault", "Ctrl-C"])
def test_nobody_waits_for_the_other_split_after_a_fault(zip_folder, tmp_path, monkeypatch, fault):
    both, ended = threading.Barrier(2), []

    def prepare_images(source, split: Split, folder, *, again, check_ids, on_images):
        both.wait()
        if split == "train":
            raise fault
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                on_images(1, 2)
        except Exception as error:
            ended.append(type(error).__name__)
            raise

    monkeypatch.setattr(module, "prepare_images", prepare_images)
    with pytest.raises(type(fault)):
        prepare(zip_folder, tmp_path)

    assert ended == ["_CancelledError"]
