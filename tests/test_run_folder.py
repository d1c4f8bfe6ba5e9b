import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from pipeline.config import Config
from pipeline.errors import ConfigError, RunError
from pipeline.predictions import Predictions
from pipeline.config_files import override_config
from pipeline.runs.run_folder import FoldTable, RunFolder

TABLE = FoldTable(np.array([1, 2, 5]), np.array([0, 9, 3]), np.array([0, 1, 0]), np.array([0, 1, 2]))
PREDICTIONS = Predictions(np.array([1, 5]), np.full((2, 10), 0.1, np.float32))
HISTORY = [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.25}]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "first")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "-flag", "new\nline", "x" * 65, "a b"])
def test_a_name_that_is_no_folders_name_is_refused(tmp_path, name):
    with pytest.raises(RunError, match=r"a run's name has 1 to 64 of"):
        RunFolder(tmp_path, name)


def test_a_run_goes_on_with_the_same_recipe_and_input(run):
    run.begin(Config(), {"train": "aa"}, {"python": "3"})
    run.begin(override_config(Config(), ["machine.num_workers=2"]), {"train": "aa"}, {"python": "4"})

    assert run.config() == Config()
    assert run.load_json("environment.json") == {"python": "3"}


def test_another_recipe_is_refused_with_the_difference(run):
    run.begin(Config(), {}, {})

    with pytest.raises(ConfigError, match=r"(?s)first was started with another recipe.*folds\.num_folds: 5 -> 3"):
        run.begin(override_config(Config(), ["folds.num_folds=3"]), {}, {})
    assert run.config() == Config()


def test_other_input_is_refused_with_the_difference(run):
    run.begin(Config(), {"train_images": "aa"}, {})

    with pytest.raises(RunError, match=r"(?s)was started on other input.*train_images: aa -> bb"):
        run.begin(Config(), {"train_images": "bb"}, {})


def test_a_run_that_is_not_there_names_the_others(tmp_path, run):
    run.begin(Config(), {}, {})

    with pytest.raises(RunError, match=r"there is no run second in .*; there are first"):
        RunFolder(tmp_path, "second").config()


def test_folds_come_back(run):
    run.save_folds(TABLE)
    found = run.folds()

    for name in ("ids", "classes", "folds", "groups"):
        assert np.array_equal(getattr(found, name), getattr(TABLE, name))
    assert found.classes_of(np.array([5, 1])).tolist() == [3, 0]


@pytest.mark.parametrize("text", [None, "id,class,fold,group\n1,2\n", "id,class,fold,group\n1,x,1,1\n"])
def test_missing_or_damaged_folds_are_told(run, text):
    if text is not None:
        run.path.mkdir()
        (run.path / "folds.csv").write_text(text)

    with pytest.raises(RunError, match=r"folds\.csv (can't be read|has not the columns)"):
        run.folds()


def test_a_finished_fold_has_all_and_no_checkpoint(run):
    fold = run.fold("net", 2)
    tensors = {"model.a": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(7)}
    assert fold.load_checkpoint() is None
    fold.save_checkpoint(HISTORY, tensors)
    history, found = fold.load_checkpoint()

    assert history == HISTORY
    assert torch.equal(found["model.a"], tensors["model.a"])
    assert found["step"] == 7
    assert not fold.is_trained

    fold.finish(HISTORY, {"a": tensors["model.a"]}, PREDICTIONS)
    assert fold.is_trained
    assert fold.load_checkpoint() is None
    assert fold.history() == HISTORY
    assert torch.equal(fold.weights()["a"], tensors["model.a"])
    assert np.array_equal(fold.out_of_fold().probabilities, PREDICTIONS.probabilities)
    assert sorted(p.name for p in fold.path.iterdir()) == [
        "checksums.json",
        "history.csv",
        "out_of_fold.npz",
        "weights.safetensors",
    ]


def test_slices_of_the_test_images_are_kept_by_round_and_ids(run):
    fold = run.fold("net", 0)
    parts = [Predictions(PREDICTIONS.ids[half], PREDICTIONS.probabilities[half]) for half in (slice(2), slice(2, None))]
    for number, part in enumerate(parts):
        fold.save_test("round_0", number, part)

    assert fold.has_test("round_0", 1, parts[1].ids)
    assert not fold.has_test("round_0", 1, parts[0].ids)
    assert not fold.has_test("round_1", 0, parts[0].ids)
    assert np.array_equal(fold.test("round_0").probabilities, PREDICTIONS.probabilities)


def test_a_run_without_test_predictions_says_so(run):
    with pytest.raises(RunError, match=r"the run .* has not predicted the test images yet"):
        run.test()
    run.path.mkdir()
    run.save_test(PREDICTIONS, np.ones(len(PREDICTIONS.ids), np.int64))

    assert np.array_equal(run.test().ids, PREDICTIONS.ids)


@pytest.mark.parametrize("name", ["weights.safetensors", "out_of_fold.npz"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_is_named(run, name, share):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    path = fold.path / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    with pytest.raises(RunError, match=rf"{name} is damaged .*; delete .*fold_0 to have this fold made again"):
        fold.weights() if name.startswith("weights") else fold.out_of_fold()


def test_a_write_that_breaks_keeps_what_was_there(run, monkeypatch):
    fold = run.fold("net", 0)
    fold.save_checkpoint(HISTORY, {"a": torch.zeros(4)})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors can't be written: No space left on device"):
        fold.save_checkpoint(HISTORY, {"a": torch.ones(4)})
    assert torch.equal(fold.load_checkpoint()[1]["a"], torch.zeros(4))
    assert [p.name for p in fold.path.iterdir()] == ["checkpoint.safetensors"]


def test_a_run_has_one_writer(run, tmp_path):
    code = (
        "import sys, pathlib; from pipeline.runs.run_folder import RunFolder\n"
        f"with RunFolder(pathlib.Path({str(tmp_path)!r}), 'first').writing():\n"
        "    print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(RunError, match=f"being written by process {owner.pid}; wait for it"), run.writing():
            pass
        owner.kill()
    with run.writing():
        assert (run.path / ".lock").read_text() == str(os.getpid())


def test_a_place_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(RunError, match=r"first can't be written: Not a directory"),
        RunFolder(tmp_path / "file", "first").writing(),
    ):
        pass


def test_times_are_kept_also_of_a_stage_that_is_stopped(run, monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 24.0])
    monkeypatch.setattr("pipeline.runs.run_folder.time.perf_counter", lambda: next(clock))
    assert run.times() == []
    with run.timing("prepare"):
        pass
    with pytest.raises(KeyboardInterrupt), run.timing("train"):
        raise KeyboardInterrupt

    assert run.times() == [{"stage": "prepare", "seconds": 2.5}, {"stage": "train", "seconds": 4.0}]


def test_the_members_blend_as_the_ensemble_says(run):
    run.begin(Config.model_validate({"folds": {"num_folds": 2}, "members": {"a": {}, "b": {}}}), {}, {})
    said = {"a": [0.9, 0.1], "b": [0.5, 0.5]}
    for name, values in said.items():
        for fold in (0, 1):
            run.fold(name, fold).finish(
                [{"epoch": 1}], {}, Predictions(np.array([fold]), np.array([values], np.float32))
            )
    run.save_json("ensemble.json", {"temperatures": {"a": 0.5, "b": 1.0}, "weights": {"a": 0.5, "b": 0.5}})
    blended = run.ensemble_out_of_fold()

    sharpened = 0.81 / 0.82
    assert blended.ids.tolist() == [0, 1]
    assert blended.probabilities[0].tolist() == pytest.approx([(sharpened + 0.5) / 2, (0.01 / 0.82 + 0.5) / 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [flip_a_bit, lambda path: path.unlink()], ids=["one bit", "deleted"])
@pytest.mark.parametrize("name", ["weights.safetensors", "out_of_fold.npz", "history.csv"])
def test_a_finished_fold_that_was_damaged_is_to_be_made_again(run, name, harm):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    harm(fold.path / name)

    assert not fold.is_trained
    assert fold.broken() == [fold.path / name]


def test_a_finished_fold_of_an_older_version_is_taken_as_it_is(run):
    fold = run.fold("net", 0)
    fold.finish(HISTORY, {"a": torch.zeros(4)}, PREDICTIONS)
    (fold.path / "checksums.json").unlink()

    assert fold.is_trained


@pytest.mark.parametrize("name", ["folds.csv", "config.yaml", "input.json", "environment.json"])
def test_a_run_whose_files_were_changed_is_refused(run, name):
    run.begin(Config(), {"train": "1"}, {"date": "today"})
    run.save_folds(TABLE)
    flip_a_bit(run.path / name)

    with pytest.raises(RunError, match=rf"^in the run first not as it wrote them: {name};"):
        run.config()


def test_a_damaged_slice_of_the_test_images_is_predicted_again(run, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.progress.log.propagate", True)
    fold = run.fold("net", 0)
    fold.save_test("round_0", 0, PREDICTIONS)
    flip_a_bit(fold.path / "test" / "round_0.000.npz")

    assert not fold.has_test("round_0", 0, PREDICTIONS.ids)
    assert "it is predicted again" in caplog.text
