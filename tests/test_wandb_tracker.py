"""The real client of Weights & Biases, offline."""

import pytest
import wandb
from tracker_files import load_wandb

from pipeline.runs.trackers.tracker import TrackedModel, TrackedRun
from pipeline.runs.trackers.wandb_tracker import WandbTracker

ROWS = [{"epoch": epoch, "loss": 2.0 / epoch} for epoch in (1, 2, 3)]
SCORES = {"accuracy": 0.5, "log_loss": 1.25, "n": 100}


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    """Hide the account and the settings of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-such-file"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "submissions" / "tiny"
    folder.mkdir(parents=True)
    return TrackedRun("0123", "tiny", "cifar-10", folder, {"seed": 7})


def model(run, fold, kind="fold"):
    name = f"net {kind} {fold}"
    return TrackedModel(name, kind, run.folder / "net" / f"{kind}_{fold}", {"train": {"epochs": 3}}, 3)


def load(run):
    """Read the run's files, which are complete when wandb's process has ended, as at the end of this one."""
    wandb.teardown()
    return load_wandb(run.folder / "wandb")


@pytest.mark.heavy
def test_models_that_train_side_by_side_are_runs_of_one_group(run, capfd, caplog):
    tracker = WandbTracker(run)
    models = [model(run, 0), model(run, 1), model(run, 0, "refit")]
    for row in ROWS:
        for each in models:
            tracker.log_epoch(each, row)
    for each in models:
        tracker.finish_model(each, SCORES if each.kind == "fold" else {})
    (run.folder / "submission.csv").write_text("id,label\n")
    tracker.finish_run({**SCORES, "accuracy": 0.75}, [run.folder / "submission.csv"])
    tracker.close(failed=False)

    runs = load(run)
    assert {name: each["kind"] for name, each in runs.items()} == {
        "net fold 0": "fold",
        "net fold 1": "fold",
        "net refit 0": "refit",
        "tiny": "ensemble",
    }
    assert {each["group"] for each in runs.values()} == {"tiny"}
    for each in models:
        history = runs[each.name]["history"]
        assert [(row["_step"], row["epoch"], row["loss"]) for row in history] == [(1, 1, 2), (2, 2, 1), (3, 3, 2 / 3)]
        assert runs[each.name]["config"]["train"] == {"epochs": 3}
    assert runs["net fold 1"]["summary"]["out_of_fold/log_loss"] == 1.25
    assert "out_of_fold/log_loss" not in runs["net refit 0"]["summary"]
    assert runs["tiny"]["summary"]["out_of_fold/accuracy"] == 0.75
    assert runs["tiny"]["config"]["seed"] == 7
    assert runs["tiny"]["artefacts"] == ["submission.csv"]
    assert capfd.readouterr() == ("", "")


def test_without_an_api_key_it_writes_offline_and_says_so_once(run, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.progress.log.handlers", [caplog.handler])
    monkeypatch.setattr("pipeline.progress.log.propagate", False)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it prompts"))
    with caplog.at_level("INFO", "pipeline"):
        tracker = WandbTracker(run)
        tracker.log_epoch(model(run, 0), ROWS[0])
        tracker.log_epoch(model(run, 1), ROWS[0])
        tracker.close(failed=True)

    (line,) = [record.getMessage() for record in caplog.records if record.name == "pipeline"]
    assert line.startswith("wandb: no API key, so it writes offline; ")
    assert line.endswith(f"wandb sync {run.folder / 'wandb' / 'offline-run-*'}")
    assert {each["exit_code"] for each in load(run).values()} == {255}


def test_resumed_model_continues_its_run(run):
    interrupted, resumed = WandbTracker(run), WandbTracker(run)
    interrupted.log_epoch(model(run, 0), ROWS[0])
    interrupted.close(failed=True)
    for row in ROWS[1:]:
        resumed.log_epoch(model(run, 0), row)
    resumed.finish_model(model(run, 0), SCORES)

    runs = load(run)
    assert list(runs) == ["net fold 0"]
    assert [row["epoch"] for row in runs["net fold 0"]["history"]] == [1, 2, 3]
    assert len(list((run.folder / "wandb").glob("offline-run-*"))) == 2
