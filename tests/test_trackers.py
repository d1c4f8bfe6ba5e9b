import importlib.util
import logging

import pytest
from tracker_files import load_scalars

from pipeline.config import Config, LogConfig
from pipeline.config_files import load_config
from pipeline.errors import ConfigError
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.trackers import open_trackers as module
from pipeline.runs.trackers.open_trackers import Trackers, open_trackers, require_installed
from pipeline.runs.trackers.tensorboard_tracker import TensorBoardTracker
from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun

ROWS = [{"epoch": epoch, "loss": 2.0 / epoch, "accuracy": 0.2 * epoch} for epoch in (1, 2, 3)]
SCORES = {"accuracy": 0.5, "log_loss": 1.25, "n": 100}


@pytest.fixture
def run(tmp_path):
    return TrackedRun("0123", "tiny", "cifar-10", tmp_path / "tiny", {})


@pytest.fixture
def model(tmp_path):
    return TrackedModel("net fold 0", "fold", tmp_path / "tiny" / "net" / "fold_0", {}, 3)


class RecordingTracker:
    """Remembers all calls; one of them fails."""

    def __init__(self, fails_at=None):
        self.calls, self._fails_at = [], fails_at

    def _call(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self._fails_at:
            raise OSError("no route\nto host")

    def log_epoch(self, model, row):
        self._call("log_epoch", row)

    def finish_model(self, model, scores):
        self._call("finish_model", scores)

    def finish_run(self, scores, artefacts):
        self._call("finish_run", scores, artefacts)

    def close(self, *, failed):
        self._call("close", failed)


@pytest.fixture
def created(monkeypatch):
    """The trackers that are created by their name, instead of the real ones."""
    trackers = {"wandb": RecordingTracker(), "mlflow": RecordingTracker()}
    monkeypatch.setattr(module, "_create", lambda name, run: trackers[name])
    return trackers


@pytest.fixture
def warnings_logged(monkeypatch, caplog):
    monkeypatch.setattr("pipeline.progress.log.handlers", [caplog.handler])
    monkeypatch.setattr("pipeline.progress.log.propagate", False)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_tensorboard_has_epochs_and_scores_as_scalars(model):
    tracker = TensorBoardTracker()
    for row in ROWS:
        tracker.log_epoch(model, row)
    tracker.finish_model(model, SCORES)

    scalars = load_scalars(model.folder / "tensorboard")
    assert set(scalars) == {"epoch", "loss", "accuracy", *(f"out_of_fold/{name}" for name in SCORES)}
    assert scalars["loss"] == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert scalars["out_of_fold/log_loss"] == [(3, 1.25)]


def test_tensorboard_has_every_epoch_of_a_resumed_training_once(model):
    interrupted, resumed = TensorBoardTracker(), TensorBoardTracker()
    for row in ROWS[:2]:  # the second was written, its checkpoint was not
        interrupted.log_epoch(model, row)
    for row in ROWS[1:]:
        resumed.log_epoch(model, row)
    resumed.close(failed=False)

    assert [step for step, _ in load_scalars(model.folder / "tensorboard")["loss"]] == [1, 2, 3]


def test_tensorboard_gets_the_scores_of_a_model_whose_epochs_are_all_written(model):
    interrupted, resumed = TensorBoardTracker(), TensorBoardTracker()
    for row in ROWS:
        interrupted.log_epoch(model, row)
    resumed.finish_model(model, SCORES)

    scalars = load_scalars(model.folder / "tensorboard")
    assert [step for step, _ in scalars["loss"]] == [1, 2, 3]
    assert scalars["out_of_fold/accuracy"] == [(3, 0.5)]


def test_csv_needs_no_tracker(run, model):
    with open_trackers(("csv",), run) as trackers:
        trackers.log_epoch(model, ROWS[0])
        trackers.finish_model(model, SCORES)
        trackers.finish_run(SCORES, [])

    assert not run.folder.exists()


def test_all_configured_trackers_get_every_call(run, model, created):
    with open_trackers(("wandb", "csv", "mlflow", "wandb"), run) as trackers:
        trackers.log_epoch(model, {**ROWS[0], "validation_loss": None})
        trackers.finish_model(model, SCORES)
        trackers.finish_run(SCORES, [])

    for tracker in created.values():
        assert tracker.calls == [
            ("log_epoch", ROWS[0]),
            ("finish_model", SCORES),
            ("finish_run", SCORES, []),
            ("close", False),
        ]


def test_epoch_that_is_computed_again_is_recorded_once(run, model, created):
    with open_trackers(("wandb",), run) as trackers:
        for row in (ROWS[0], ROWS[1], ROWS[1], ROWS[2]):
            trackers.log_epoch(model, row)

    assert [values["epoch"] for name, *(values,) in created["wandb"].calls if name == "log_epoch"] == [1, 2, 3]


def test_interrupted_command_closes_its_trackers(run, created):
    with pytest.raises(KeyboardInterrupt), open_trackers(("wandb",), run):
        raise KeyboardInterrupt

    assert created["wandb"].calls == [("close", True)]


@pytest.mark.parametrize("method", ["log_epoch", "finish_model", "finish_run", "close"])
def test_tracker_that_fails_gives_one_warning_and_is_off(run, model, created, warnings_logged, method):
    created["wandb"] = RecordingTracker(fails_at=method)
    with open_trackers(("wandb", "mlflow"), run) as trackers:
        for row in ROWS:
            trackers.log_epoch(model, row)
        trackers.finish_model(model, SCORES)
        trackers.finish_run(SCORES, [])

    assert warnings_logged() == ["wandb failed (no route to host); the training continues without it"]
    assert created["wandb"].calls[-1][0] == method
    assert len(created["mlflow"].calls) == 3 + 3


def test_tracker_that_can_not_be_opened_gives_one_warning(warnings_logged, model):
    def fail():
        raise RuntimeError

    trackers = Trackers()
    trackers.open("mlflow", fail)
    trackers.log_epoch(model, ROWS[0])

    assert warnings_logged() == ["mlflow failed (RuntimeError); the training continues without it"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorboard", "tensorboard, but tensorboard is not installed; pip install tensorboard"),
        ("wandb", "wandb, but wandb is not installed; pip install wandb"),
        (
            "mlflow",
            "mlflow, but mlflow, sqlalchemy, alembic are not installed; pip install mlflow-skinny sqlalchemy alembic",
        ),
    ],
)
def test_missing_package_is_reported_with_its_installation(monkeypatch, name, message):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError) as error:
        require_installed(["csv", name])
    assert str(error.value) == f"log.trackers has {message}"


def test_mlflow_needs_no_database_with_a_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found" if name == "mlflow" else None)

    require_installed(["mlflow"])


@pytest.mark.parametrize(("before", "now"), [("true", ("csv", "tensorboard")), ("false", ("csv",))])
def test_run_of_an_earlier_version_keeps_its_tracker(tmp_path, before, now):
    run = RunFolder(tmp_path, "old")
    run.path.mkdir()
    (run.path / "config.yaml").write_text(f"seed: 3\nlog:\n  tensorboard: {before}\n")

    assert run.config().log.trackers == now
    assert run.config().experiment() == Config(seed=3).experiment()


def test_former_key_beside_the_new_one_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("log: {trackers: [csv]}\n")

    with pytest.raises(ConfigError, match=r"unknown key 'log\.tensorboard'; it is now 'log\.trackers'"):
        load_config(path, ["log.tensorboard=true"])


def test_unknown_tracker_is_an_error_that_lists_the_known_ones(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("log: {trackers: [csv, comet]}\n")

    with pytest.raises(ConfigError, match=r"log\.trackers\.1: .*'wandb'.*found 'comet'"):
        load_config(path)


def test_trackers_are_not_part_of_the_experiment():
    assert Config(log=LogConfig(trackers=("wandb",))).experiment() == Config().experiment()
