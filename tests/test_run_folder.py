import logging
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import ROOT

from pipeline import predictions
from pipeline.config import Config
from pipeline.config_files import override_config
from pipeline.errors import ConfigError, RunError
from pipeline.evaluate import load_ensemble_predictions
from pipeline.predictions import Predictions, join
from pipeline.results import Agreement, CascadeStats, Metrics, StageStats
from pipeline.runs.checkpoint import Checkpoint
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import RunFolder, check_run_name
from pipeline.temperature_scaling import to_probabilities

TABLE = FoldTable(np.array([1, 2, 5]), np.array([0, 9, 3]), np.array([0, 1, 0]), np.array([0, 1, 2]))
PREDICTIONS = Predictions(np.array([1, 5]), np.arange(20, dtype=np.float32).reshape(2, 10))
HISTORY = [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.25}]
STATS = CascadeStats(
    stages=[StageStats(forward_passes=2, num_images=2)],
    full_forward_passes=2,
    mean_forward_passes=1.5,
    agreement=Agreement(num_images=2, models=["net fold 0"], rates=[[1.0]]),
)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "first")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "-flag", "new\nline", "x" * 65, "a b"])
def test_unsafe_run_name_is_rejected(name):
    with pytest.raises(RunError, match=r"--run .*: expected 1 to 64 of the characters A-Z a-z 0-9 _ \. -"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["ledger.json", "index.html", "Ledger.json"])
def test_name_of_a_file_in_submissions_is_rejected_as_run_name(name):
    with pytest.raises(RunError, match="this name is taken in submissions/"):
        check_run_name(name)


def test_run_resumes_with_the_same_config_and_input(run):
    run.create_or_verify(Config(), {"train": "aa"}, {"python": "3"})
    run.create_or_verify(override_config(Config(), ["machine.num_workers=2"]), {"train": "aa"}, {"python": "4"})

    assert run.config() == Config()
    assert run.environment() == {"python": "3"}


def test_another_config_is_rejected_with_the_difference(run):
    run.create_or_verify(Config(), {}, {})

    with pytest.raises(ConfigError, match=r"(?s)first was started with another config.*folds\.num_folds: 5 -> 3"):
        run.create_or_verify(override_config(Config(), ["folds.num_folds=3"]), {}, {})
    assert run.config() == Config()


def test_other_input_is_rejected_with_the_difference(run):
    run.create_or_verify(Config(), {"train_images": "aa"}, {})

    with pytest.raises(RunError, match=r"(?s)was started on other input.*train_images: aa -> bb"):
        run.create_or_verify(Config(), {"train_images": "bb"}, {})


def test_error_for_a_missing_run_lists_existing_runs(tmp_path, run):
    run.create_or_verify(Config(), {}, {})

    with pytest.raises(RunError, match=r"there is no run second in .*; existing runs: first"):
        RunFolder(tmp_path, "second").config()


def test_folds_are_saved_and_loaded(run):
    assert not run.has_folds
    run.save_folds(TABLE)
    loaded = run.folds()

    assert run.has_folds
    assert (run.path / "folds.csv").read_text() == "id,label,fold,group\n1,0,0,0\n2,9,1,1\n5,3,0,2\n"
    for name in ("ids", "labels", "folds", "groups"):
        assert np.array_equal(getattr(loaded, name), getattr(TABLE, name))
    assert loaded.labels_for(np.array([5, 1])).tolist() == [3, 0]
    assert loaded.is_validation(0).tolist() == [True, False, True]


@pytest.mark.parametrize("text", [None, "id,label,fold,group\n1,2\n", "id,label,fold,group\n1,x,1,1\n"])
def test_missing_or_corrupted_folds_are_reported(run, text):
    if text is not None:
        run.path.mkdir()
        (run.path / "folds.csv").write_text(text)

    with pytest.raises(RunError, match=r"folds\.csv (can't be read|does not have the columns)"):
        run.folds()


def test_table_of_some_folds_has_the_rows_of_their_validation_images():
    table = FoldTable(np.array([1, 2, 3, 4]), np.array([5, 6, 7, 8]), np.array([0, 1, 2, 1]), np.array([0, 1, 2, 1]))
    only = table.select_folds([1, 2])

    assert [only.ids.tolist(), only.labels.tolist(), only.folds.tolist()] == [[2, 3, 4], [6, 7, 8], [1, 2, 1]]
    assert table.select_folds([0, 1, 2]) is table
    assert table.num_training_images(1) == 2


def test_refit_is_trained_on_all_images():
    table = FoldTable(np.array([1, 2]), np.array([5, 6]), np.array([0, 1]), np.array([0, 1]))

    assert table.num_training_images(None) == 2
    assert not table.is_validation(None).any()


def test_finished_fold_has_all_files_and_no_checkpoint(run):
    fold = run.fold("net", 2)
    tensors = {"model.a": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(7)}
    assert fold.load_checkpoint() is None
    fold.save_checkpoint(Checkpoint(HISTORY, tensors, {"num_steps": 3}))
    loaded = fold.load_checkpoint()

    assert (loaded.history, loaded.unfinished_epoch) == (HISTORY, {"num_steps": 3})
    assert torch.equal(loaded.tensors["model.a"], tensors["model.a"])
    assert loaded.tensors["step"] == 7
    assert not fold.is_trained

    fold.finish(HISTORY, {"a": tensors["model.a"]}, PREDICTIONS)
    assert fold.is_trained
    assert fold.load_checkpoint() is None
    assert fold.history() == HISTORY
    assert torch.equal(fold.weights()["a"], tensors["model.a"])
    assert np.array_equal(fold.out_of_fold().ids, PREDICTIONS.ids)
    assert np.array_equal(fold.out_of_fold().logits, PREDICTIONS.logits)
    assert sorted(p.name for p in fold.path.iterdir()) == [
        "checksums.json",
        "history.csv",
        "out_of_fold.npz",
        "weights.safetensors",
    ]


def test_test_slices_are_found_by_stage_index_and_ids(run):
    fold = run.fold("net", 0)
    parts = [PREDICTIONS.select(PREDICTIONS.ids[half]) for half in (slice(1), slice(1, None))]
    for index, part in enumerate(parts):
        fold.save_test_slice("stage_0", index, part)
    loaded = [fold.load_test_slice("stage_0", index, part.ids) for index, part in enumerate(parts)]

    assert fold.load_test_slice("stage_0", 1, parts[0].ids) is None
    assert fold.load_test_slice("stage_1", 0, parts[0].ids) is None
    assert np.array_equal(join(loaded).ids, PREDICTIONS.ids)
    assert np.array_equal(join(loaded).logits, PREDICTIONS.logits)


def test_missing_test_predictions_are_reported(run):
    assert not run.has_test_predictions
    with pytest.raises(RunError, match=r"the run first has no test predictions yet; python run\.py predict"):
        run.test_predictions()
    with pytest.raises(RunError, match=r"the run first has no test predictions yet; python run\.py predict"):
        run.test_results()


def test_test_predictions_are_saved_and_loaded_with_their_forward_passes(run):
    run.path.mkdir()
    run.save_test_predictions(predictions.CascadePredictions(PREDICTIONS, np.array([2, 1]), STATS))
    loaded = run.test_results()

    assert run.has_test_predictions
    assert (run.path / "test_predictions.npz").exists()
    assert (run.path / "cascade.json").exists()
    assert np.array_equal(run.test_predictions().ids, PREDICTIONS.ids)
    assert np.array_equal(loaded.predictions.ids, PREDICTIONS.ids)
    assert np.array_equal(loaded.predictions.logits, PREDICTIONS.logits)
    assert loaded.forward_passes.tolist() == [2, 1]
    assert loaded.stats == STATS


@pytest.mark.parametrize("text", [None, "", "[]", '{"stages": 1}'], ids=["missing", "empty", "list", "other keys"])
def test_missing_or_corrupted_results_are_reported_with_the_command_that_writes_them(run, text):
    run.path.mkdir()
    run.save_test_predictions(predictions.CascadePredictions(PREDICTIONS, np.array([2, 1]), STATS))
    run.save_metrics(Metrics(members={}))
    assert run.metrics() == Metrics(members={})
    for name in ("metrics.json", "cascade.json"):
        (run.path / name).unlink()
        if text is not None:
            (run.path / name).write_text(text)

    with pytest.raises(
        RunError, match=r"(?s)^\S*metrics\.json can't be read \(.*\); python run\.py validate --run first$"
    ):
        run.metrics()
    with pytest.raises(
        RunError, match=r"(?s)^\S*cascade\.json can't be read \(.*\); python run\.py predict --run first$"
    ):
        run.test_results()


@pytest.mark.parametrize("name", ["weights.safetensors", "out_of_fold.npz"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_file_is_named(run, name, share):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    path = fold.path / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    message = rf"{name} is corrupted .*; delete .*fold_0 and rerun the same command to recreate this fold"
    with pytest.raises(RunError, match=message):
        fold.weights() if name.startswith("weights") else fold.out_of_fold()


def test_failed_write_keeps_the_existing_file(run, monkeypatch):
    fold = run.fold("net", 0)
    fold.save_checkpoint(Checkpoint(HISTORY, {"a": torch.zeros(4)}))

    def raise_disk_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors can't be written: disk full \(No space left"):
        fold.save_checkpoint(Checkpoint(HISTORY, {"a": torch.ones(4)}))
    assert torch.equal(fold.load_checkpoint().tensors["a"], torch.zeros(4))
    assert [p.name for p in fold.path.iterdir()] == ["checkpoint.safetensors"]


@contextmanager
def another_process_locks(run):
    """Lock a run in another process, which is killed at the end of the block."""
    code = (
        "import sys, pathlib; from pipeline.runs.run_folder import RunFolder, check_run_name\n"
        f"with RunFolder(pathlib.Path({str(run.path.parent)!r}), {run.name!r}).lock():\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout.readline() == "locked\n"
        yield owner
        owner.kill()


def test_run_has_a_single_writer(run):
    with another_process_locks(run) as owner:
        assert (run.path / ".lock.pid").read_text() == str(owner.pid)
        message = f"the run first is in use by process {owner.pid}; wait for it, or choose another name with --run"
        with pytest.raises(RunError, match=message), run.lock():
            pass


def test_lock_of_a_killed_process_is_free(run):
    with another_process_locks(run) as owner:
        pass
    assert (run.path / ".lock.pid").read_text() == str(owner.pid)

    with run.lock():
        assert (run.path / ".lock.pid").read_text() == str(os.getpid())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunError])
def test_lock_is_released_after_an_error(run, error):
    with pytest.raises(error), run.lock():
        raise error

    with run.lock():
        pass


def test_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(RunError, match=r"first can't be written: a part of this path is a file"),
        RunFolder(tmp_path / "file", "first").lock(),
    ):
        pass


def test_times_include_an_interrupted_stage(run, monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 24.0])
    monkeypatch.setattr("pipeline.runs.run_folder.time.perf_counter", lambda: next(clock))
    assert run.times() == []
    with run.timing("prepare"):
        pass
    with pytest.raises(KeyboardInterrupt), run.timing("train"):
        raise KeyboardInterrupt

    assert [(time.stage, time.seconds) for time in run.times()] == [("prepare", 2.5), ("train", 4.0)]


@pytest.mark.parametrize("text", ["null", '"x"', "[[1]]", '[{"a": 1}]', "", "\xff"])
def test_corrupted_times_are_reported_and_replaced(run, caplog, monkeypatch, text):
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    run.path.mkdir()
    (run.path / "times.json").write_text(text)
    with run.timing("predict"):
        pass

    assert "times.json is corrupted" in caplog.text
    assert [time.stage for time in run.times()] == ["predict"]


def test_saved_ensemble_combines_the_out_of_fold_predictions(run):
    run.create_or_verify(Config.model_validate({"folds": {"num_folds": 2}, "members": {"a": {}, "b": {}}}), {}, {})
    run.save_folds(TABLE)
    probabilities = {"a": [0.9, 0.1], "b": [0.5, 0.5]}
    for name, values in probabilities.items():
        for fold in (0, 1):
            part = Predictions.from_probabilities(np.array([fold]), np.array([values], np.float32))
            run.fold(name, fold).finish([{"epoch": 1}], {}, part)
    run.save_json("ensemble.json", {"temperatures": {"a": 0.5, "b": 1.0}, "weights": {"a": 0.5, "b": 0.5}})
    combined = load_ensemble_predictions(run)

    sharpened = 0.81 / 0.82
    expected = [(sharpened + 0.5) / 2, (0.01 / 0.82 + 0.5) / 2]
    assert combined.ids.tolist() == [0, 1]
    for row in to_probabilities(combined.logits):
        assert row.tolist() == pytest.approx(expected)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("corrupt", [flip_a_bit, lambda path: path.unlink()], ids=["one bit", "deleted"])
@pytest.mark.parametrize("name", ["weights.safetensors", "out_of_fold.npz", "history.csv"])
def test_corruption_of_a_finished_fold_is_detected(run, name, corrupt):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    corrupt(fold.path / name)

    assert not fold.is_trained
    assert fold.corrupted() == [fold.path / name]


def test_finished_fold_without_checksums_is_accepted(run):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    (fold.path / "checksums.json").unlink()

    assert fold.is_trained


@pytest.mark.parametrize("name", ["folds.csv", "config.yaml", "input.json", "environment.json"])
def test_edited_file_of_a_run_is_detected(run, name):
    run.create_or_verify(Config(), {"train": "1"}, {"date": "today"})
    run.save_folds(TABLE)
    flip_a_bit(run.path / name)

    with pytest.raises(
        RunError, match=rf"^files of the run first were changed or deleted since it wrote them: {name};"
    ):
        run.config()


@pytest.mark.parametrize("name", ["folds.csv", "config.yaml", "input.json", "environment.json", "checksums.json"])
@pytest.mark.parametrize("others", [(), ("checksums.json", "folds.csv")], ids=["alone", "with others"])
def test_run_with_trained_folds_does_not_start_again_without_one_of_its_files(run, name, others):
    run.create_or_verify(Config(), {"train": "1"}, {"date": "today"})
    run.save_folds(TABLE)
    run.fold("net", 0).finish(HISTORY, {}, PREDICTIONS)
    for each in {name, *others}:
        (run.path / each).unlink()

    with pytest.raises(RunError, match=rf"^files of the run first were changed or deleted .*{name}.*choose another"):
        run.create_or_verify(override_config(Config(), ["seed=1"]), {"train": "1"}, {"date": "today"})


def test_run_that_is_deleted_while_it_is_written_is_reported(run):
    run.create_or_verify(Config(), {}, {})
    run.save_folds(TABLE)

    def write():
        with run.lock():
            shutil.rmtree(run.path)
            run.fold("net", 0).finish(HISTORY, {}, PREDICTIONS)

    with pytest.raises(RunError, match=r"^files of the run first were .*: config\.yaml, environment\.json"):
        write()


def test_missing_submission_is_reported_with_the_command_that_writes_it(run, tmp_path):
    run.create_or_verify(Config(), {}, {})

    with pytest.raises(RunError, match=r"submission\.csv does not exist; python run\.py predict --run first"):
        run.existing_submission()
    with pytest.raises(RunError, match=r"there is no run second in .*; existing runs: first"):
        RunFolder(tmp_path, "second").existing_submission()
    run.submission.touch()
    assert run.existing_submission() == run.submission


def test_corrupted_test_slice_is_predicted_again(run, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.progress.log.propagate", True)
    fold = run.fold("net", 0)
    fold.save_test_slice("stage_0", 0, PREDICTIONS)
    flip_a_bit(fold.path / "test_logits" / "stage_0.000.npz")

    assert fold.load_test_slice("stage_0", 0, PREDICTIONS.ids) is None
    assert "it is predicted again" in caplog.text


def test_only_the_checkpoint_of_a_fold_with_corrupted_results_is_exported_to_resume_it(run):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    (fold.path / "out_of_fold.npz").write_bytes(b"corrupted")
    fold.save_checkpoint(Checkpoint(HISTORY[:1], {"a": torch.ones(4)}))
    other = run.fold("net", 1)
    other.import_files(fold.export_unfinished())

    assert not fold.is_trained
    assert list(fold.export_unfinished()) == ["checkpoint.safetensors"]
    assert other.load_checkpoint().history == HISTORY[:1]


def test_files_that_a_tracker_writes_on_the_driver_are_not_exported(run):
    fold = run.fold("net", 0)
    fold.save_checkpoint(Checkpoint(HISTORY[:1], {"a": torch.ones(4)}))
    (fold.path / "tensorboard").mkdir()
    (fold.path / "tensorboard" / "events").touch()

    assert list(fold.export_files()) == ["checkpoint.safetensors"]


def test_run_of_another_version_is_rejected_with_the_keys(run):
    run.create_or_verify(Config(), {}, {})
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("tta:", "views:"))
    (run.path / "checksums.json").unlink()

    with pytest.raises(RunError, match=r"(?s)first is of another version .* choose another --run:.*now 'predict.tta'"):
        run.config()


def test_name_of_a_config_that_is_not_unicode_is_saved_escaped(run):
    run.path.mkdir()
    run.save_json("environment.json", {"config": "q\udcff"})

    assert run.environment() == {"config": "q\udcff"}
