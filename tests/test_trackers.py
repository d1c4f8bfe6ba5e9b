import importlib.util

import pytest

from pipeline.errors import ConfigError
from pipeline.runs.trackers import require_tensorboard, tensorboard_tracker

EPOCHS = [{"epoch": epoch, "loss": 2.0 / epoch, "accuracy": 0.2 * epoch} for epoch in (1, 2, 3)]


def kept(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_epochs_are_scalars(tmp_path):
    with tensorboard_tracker(tmp_path / "events", wanted=True, num_epochs=0) as events:
        for epoch in EPOCHS:
            events.add(epoch)

    found = kept(tmp_path / "events")
    assert set(found) == {"epoch", "loss", "accuracy"}
    assert found["loss"] == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]


def test_a_training_that_goes_on_has_every_epoch_once(tmp_path):
    with tensorboard_tracker(tmp_path / "events", wanted=True, num_epochs=0) as events:
        for epoch in EPOCHS[:2]:  # the second was written and its checkpoint was not
            events.add(epoch)
    with tensorboard_tracker(tmp_path / "events", wanted=True, num_epochs=1) as events:
        for epoch in EPOCHS[1:]:
            events.add(epoch)

    assert [step for step, _ in kept(tmp_path / "events")["loss"]] == [1, 2, 3]


def test_not_wanted_it_writes_nothing(tmp_path):
    with tensorboard_tracker(tmp_path / "events", wanted=False, num_epochs=0) as events:
        events.add(EPOCHS[0])

    assert not (tmp_path / "events").exists()


def test_without_tensorboard_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match="pip install tensorboard"):
        require_tensorboard()
