"""Whole jobs with all experiment trackers: the real clients, without a server."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from tracker_files import load_mlflow, load_scalars, load_wandb

from pipeline.run_context import open_context
from pipeline.runs.run_folder import RunFolder
from pipeline.task import CIFAR10
from pipeline.workflow import train

pytestmark = pytest.mark.heavy
ALL = "[csv, tensorboard, wandb, mlflow]"
CONFIG = """
members: {net: {model: {name: tutorial_cnn}, train: {epochs: 3, batch_size: 32, optimizer: {lr: 0.02}}}}
folds: {num_folds: 2}
refit: {models: 1}
machine: {jobs: 1, threads_per_job: 1, autocast: "off"}
"""
MODELS = ("net fold 0", "net fold 1", "net refit 0")
KILLED_AFTER_EPOCH_2 = """
import os, runpy, signal, sys, time
from pipeline.tracking import Tracking

on_epoch = Tracking.on_epoch

def on_epoch_until_killed(self, job, record):
    on_epoch(self, job, record)
    if str(job) == "net fold 1" and record.epoch == 2:
        time.sleep(2)  # wandb flushes every second
        os.kill(os.getpid(), signal.SIGKILL)

Tracking.on_epoch = on_epoch_until_killed
sys.argv[0] = {run!r}
runpy.run_path({run!r}, run_name="__main__")
"""


def without_accounts(folder):
    """The environment of somebody who has no account of any tracker."""
    names = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    folders = {f"WANDB_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
    return kept | folders | {"NETRC": str(folder / "no-such-file")}


@pytest.fixture(scope="module")
def resumed_run(zip_folder, tmp_path_factory):
    """A finished run that was killed once, and what the second process has printed."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "tiny.yaml").write_text(CONFIG)
    arguments = ["all", "--config", "tiny.yaml", "--input", str(zip_folder), "--set", f"log.trackers={ALL}"]
    options = {"cwd": folder, "env": without_accounts(folder), "capture_output": True, "text": True, "timeout": 200}
    run = str(ROOT / "run.py")
    command = [sys.executable, "-c", KILLED_AFTER_EPOCH_2.format(run=run), *arguments]
    options["env"]["PYTHONPATH"] = os.pathsep.join([str(ROOT), options["env"]["PYTHONPATH"]])
    killed = subprocess.run(command, **options, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    refused = folder / "refused_connections"
    options["env"]["REFUSED_CONNECTIONS"] = str(refused)
    done = subprocess.run([sys.executable, run, *arguments], **options, check=False)
    assert done.returncode == 0, done.stderr
    assert not refused.exists()
    return RunFolder(folder / "submissions", "tiny"), done


def test_clients_print_nothing(resumed_run):
    _, done = resumed_run
    lines = done.stderr.splitlines()

    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d ", line)] == []
    assert sum("wandb: no API key" in line for line in lines) == 1
    assert "failed" not in done.stderr
    assert "wandb" not in done.stdout
    assert "mlflow" not in done.stdout.lower()


def test_tensorboard_has_every_epoch_once(resumed_run):
    run, _ = resumed_run
    for folder in (run.fold("net", 0), run.fold("net", 1), run.refit("net", 0)):
        scalars = load_scalars(folder.path / "tensorboard")

        assert [step for step, _ in scalars["loss"]] == [1, 2, 3]
        assert [value for _, value in scalars["loss"]] == pytest.approx([row["loss"] for row in folder.history()])


def test_wandb_has_one_run_per_model(resumed_run):
    run, _ = resumed_run
    runs, metrics = load_wandb(run.path / "wandb"), run.metrics()

    assert set(runs) == {*MODELS, "tiny"}
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 4 + 1  # the killed process had opened fold 1
    assert {each["group"] for each in runs.values()} == {"tiny"}
    for name, folder in zip(MODELS, (run.fold("net", 0), run.fold("net", 1), run.refit("net", 0)), strict=True):
        assert [row["epoch"] for row in runs[name]["history"]] == [1, 2, 3]
        assert [row["loss"] for row in runs[name]["history"]] == [row["loss"] for row in folder.history()]
        assert runs[name]["exit_code"] == 0
    assert runs["net fold 1"]["summary"]["out_of_fold/accuracy"] == metrics.members["net"].folds[1].accuracy
    assert runs["net fold 1"]["config"]["train"]["batch_size"] == 32
    assert runs["tiny"]["summary"]["out_of_fold/log_loss"] == metrics.ensemble.scores.log_loss
    assert sorted(runs["tiny"]["artefacts"]) == ["report.html", "submission.csv"]


def test_mlflow_has_one_run_per_model_below_that_of_the_pipeline(resumed_run):
    run, _ = resumed_run
    runs, metrics = load_mlflow(run.path.parent), run.metrics()

    assert set(runs) == {*MODELS, "tiny"}
    assert {runs[name]["parent"] for name in MODELS} == {runs["tiny"]["id"]}
    assert {each["status"] for each in runs.values()} == {"FINISHED"}
    for name, folder in zip(MODELS, (run.fold("net", 0), run.fold("net", 1), run.refit("net", 0)), strict=True):
        assert runs[name]["metrics"]["loss"] == [(row["epoch"], row["loss"]) for row in folder.history()]
    scores = metrics.members["net"].folds[0]
    assert runs["net fold 0"]["metrics"]["out_of_fold/log_loss"] == [(3, scores.log_loss)]
    assert runs["net fold 0"]["params"]["train.batch_size"] == "32"
    assert "out_of_fold/accuracy" not in runs["net refit 0"]["metrics"]
    assert runs["tiny"]["metrics"]["out_of_fold/accuracy"] == [(0, metrics.ensemble.scores.accuracy)]
    assert runs["tiny"]["artefacts"] == ["report.html", "submission.csv"]


def test_trackers_that_fail_give_a_warning_each_and_change_no_weights(
    zip_folder, resumed_run, tmp_path, monkeypatch, caplog
):
    import wandb

    for name, value in without_accounts(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(wandb.Run, "log", lambda *_, **__: 1 / 0)
    monkeypatch.setattr("pipeline.progress.log.handlers", [caplog.handler])
    monkeypatch.setattr("pipeline.progress.log.propagate", False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    overrides = [f"log.trackers={ALL}"]
    train(open_context(CIFAR10, config_path=tmp_path / "tiny.yaml", input_dir=zip_folder, overrides=overrides))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    failing, (tracked, _) = RunFolder(tmp_path / "submissions", "tiny"), resumed_run

    assert len(warnings) == 2
    assert all(line.endswith("; the training continues without it") for line in warnings)
    assert "\n" not in "".join(warnings)
    assert warnings[0].startswith("mlflow failed (API request to http://127.0.0.1:9")
    assert warnings[1].startswith("wandb failed (division by zero)")
    (tmp_path / "plain.yaml").write_text(CONFIG)
    train(open_context(CIFAR10, config_path=tmp_path / "plain.yaml", input_dir=zip_folder))
    plain = RunFolder(tmp_path / "submissions", "plain")
    for folder in ("fold_0", "fold_1", "refit_0"):
        weights = {
            (run.path / "net" / folder / "weights.safetensors").read_bytes() for run in (plain, failing, tracked)
        }
        assert len(weights) == 1
    assert np.array_equal(plain.fold("net", 0).out_of_fold().logits, failing.fold("net", 0).out_of_fold().logits)
