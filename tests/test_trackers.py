import importlib.util

import pytest

from pipeline.errors import ConfigError
from pipeline.runs.trackers import require_tensorboard, tensorboard_tracker

EPOCHS = [{"epoch": epoch, "loss": 2.0 / epoch, "accuracy": 0.2 * epoch} for epoch in (1, 2, 3)]


def load_scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_epochs_are_written_as_scalars(tmp_path):
    with tensorboard_tracker(tmp_path / "events", enabled=True, num_epochs=0) as tracker:
        for epoch in EPOCHS:
            tracker.add(epoch)

    scalars = load_scalars(tmp_path / "events")
    assert set(scalars) == {"epoch", "loss", "accuracy"}
    assert scalars["loss"] == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]


def test_resumed_training_has_every_epoch_once(tmp_path):
    with tensorboard_tracker(tmp_path / "events", enabled=True, num_epochs=0) as tracker:
        for epoch in EPOCHS[:2]:  # the second was written, its checkpoint was not
            tracker.add(epoch)
    with tensorboard_tracker(tmp_path / "events", enabled=True, num_epochs=1) as tracker:
        for epoch in EPOCHS[1:]:
            tracker.add(epoch)

    assert [step for step, _ in load_scalars(tmp_path / "events")["loss"]] == [1, 2, 3]


def test_disabled_tracker_writes_nothing(tmp_path):
    with tensorboard_tracker(tmp_path / "events", enabled=False, num_epochs=0) as tracker:
        tracker.add(EPOCHS[0])

    assert not (tmp_path / "events").exists()


def test_missing_tensorboard_is_reported_with_its_installation(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match="pip install tensorboard"):
        require_tensorboard()
