import itertools
import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from pipeline.data.image_cache import prepare_images
from pipeline.data.source import find_source
from pipeline.errors import TrainingError
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.learning.device import Machine
from pipeline.learning.predict import tta_views
from pipeline.learning.train import Trainer
from pipeline.learning.train_state import EpochRecord
from pipeline.member_config import MemberConfig
from pipeline.predictions import Predictions
from pipeline.progress import ProgressDisplay
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.prediction_files import CorruptedFileError, save_predictions
from pipeline.task import CIFAR10

MACHINE = Machine()
DISPLAY = ProgressDisplay(Progress(disable=True), 0.0)
MEMBER = MemberConfig.model_validate(
    {
        "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
        "train": {"epochs": 3, "batch_size": 32, "ema_decay": 0.5, "optimizer": {"muon": {"lr": 0.1}}},
    }
)


@pytest.fixture
def make_job(tmp_path):
    return lambda name: FoldJob("net", MEMBER, CIFAR10, 1, 5, "flip", FoldFolder(tmp_path / name))


@pytest.fixture
def data(zip_folder, tmp_path):
    source = find_source(zip_folder, CIFAR10)
    labels = source.labels()
    folds = np.arange(len(labels.ids)) % 4
    table = FoldTable(labels.ids, labels.labels, folds, np.arange(len(labels.ids)))
    return prepare_images(source, "train", tmp_path / "cache"), table


class Killed(BaseException):
    """Ends a job at a chosen point, as a kill does."""


def train(job, store, table):
    """Train a fold; return its out-of-fold predictions."""
    *_, predictions = job.train(MACHINE, store, table, DISPLAY)
    return predictions


def test_training_yields_its_epochs_and_at_last_the_predictions(make_job, data):
    store, table = data
    job, is_saved = make_job("fold"), []
    results = []
    for result in job.train(MACHINE, store, table, DISPLAY):
        results.append(result)
        checkpoint = job.folder.load_checkpoint()
        is_saved.append(checkpoint is not None and len(checkpoint.history) == len(results))

    *records, predictions = results
    assert [type(result) for result in results] == [EpochRecord, EpochRecord, EpochRecord, Predictions]
    assert is_saved == [True, True, True, False]
    assert [record.epoch for record in records] == [1, 2, 3]
    assert all(record.validation_accuracy is not None for record in records)
    assert job.folder.history() == [record.to_row() for record in records]
    assert job.folder.is_trained
    assert np.array_equal(predictions.ids, job.folder.out_of_fold().ids)
    assert np.array_equal(predictions.logits, job.folder.out_of_fold().logits)


@pytest.mark.parametrize("after", [1, 2, 3], ids=["first epoch", "second epoch", "last epoch, before its evaluation"])
def test_killed_job_resumes_to_the_same_bytes(make_job, data, monkeypatch, after):
    store, table = data
    uninterrupted, killed = make_job("uninterrupted"), make_job("killed")
    expected = train(uninterrupted, store, table)
    calls = itertools.count(1)
    save = FoldFolder.save_checkpoint

    def save_and_die(self, *arguments):
        save(self, *arguments)
        if next(calls) == after:
            raise Killed

    monkeypatch.setattr(FoldFolder, "save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        train(killed, store, table)
    assert not killed.folder.is_trained
    monkeypatch.undo()

    resumed = train(make_job("killed"), store, table)

    assert resumed.logits.tobytes() == expected.logits.tobytes()
    for name in ("weights.safetensors", "out_of_fold.npz"):
        assert (killed.folder.path / name).read_bytes() == (uninterrupted.folder.path / name).read_bytes()


def test_saved_out_of_fold_logits_are_those_of_the_reloaded_weights(make_job, data):
    store, table = data
    job = make_job("fold")
    train(job, store, table)
    validation = table.is_validation(1)
    out_of_fold = job.folder.out_of_fold()
    request = PredictRequest(np.flatnonzero(validation), tta_views("flip"), "all")
    predictions = job.predict_test(MACHINE, store, request, DISPLAY)
    saved = job.folder.load_test_slice("all", 0, out_of_fold.ids)

    assert np.array_equal(out_of_fold.ids, table.ids[validation])
    assert np.array_equal(predictions.ids, out_of_fold.ids)
    assert np.array_equal(predictions.logits, out_of_fold.logits)
    assert np.array_equal(saved.ids, out_of_fold.ids)
    assert np.array_equal(saved.logits, out_of_fold.logits)


@pytest.fixture
def two_trained_jobs(make_job, data):
    """Two jobs with the same weights."""
    first, second = make_job("first"), make_job("second")
    train(first, *data)
    shutil.copytree(first.folder.path, second.folder.path)
    return first, second


def test_killed_prediction_repeats_a_single_slice(two_trained_jobs, data, monkeypatch):
    store, _ = data
    monkeypatch.setattr("pipeline.executors.fold_job.SLICE_SIZE", 50)
    uninterrupted, killed = two_trained_jobs
    request = PredictRequest(np.arange(len(store.ids)), tta_views("none"), "all")
    expected = uninterrupted.predict_test(MACHINE, store, request, DISPLAY)
    calls, save, saved = itertools.count(1), FoldFolder.save_test_slice, []

    def save_and_die(self, *arguments):
        save(self, *arguments)
        saved.append(arguments[1])
        if next(calls) == 2:
            raise Killed

    monkeypatch.setattr(FoldFolder, "save_test_slice", save_and_die)
    with pytest.raises(Killed):
        killed.predict_test(MACHINE, store, request, DISPLAY)
    resumed = killed.predict_test(MACHINE, store, request, DISPLAY)

    assert saved == list(range(-(-len(store.ids) // 50)))
    assert resumed.ids.tolist() == store.ids.tolist()
    assert resumed.logits.tobytes() == expected.logits.tobytes()
    paths = list((uninterrupted.folder.path / "test_logits").iterdir())
    assert len(paths) == len(saved)
    for path in paths:
        assert (killed.folder.path / "test_logits" / path.name).read_bytes() == path.read_bytes()


def test_saved_slices_are_not_predicted_again(two_trained_jobs, data, monkeypatch):
    store, _ = data
    monkeypatch.setattr("pipeline.executors.fold_job.SLICE_SIZE", 50)
    job, _ = two_trained_jobs
    request = PredictRequest(np.arange(len(store.ids)), tta_views("none"), "all")
    first = job.predict_test(MACHINE, store, request, DISPLAY)
    for name in ("build_model", "predict_logits"):
        monkeypatch.setattr(f"pipeline.executors.fold_job.{name}", None)
    second = job.predict_test(MACHINE, store, request, DISPLAY)

    assert second.ids.tolist() == store.ids.tolist()
    assert second.logits.tobytes() == first.logits.tobytes()


def test_only_a_corrupted_slice_is_predicted_again(two_trained_jobs, data, monkeypatch):
    store, _ = data
    monkeypatch.setattr("pipeline.executors.fold_job.SLICE_SIZE", 50)
    job, _ = two_trained_jobs
    request = PredictRequest(np.arange(len(store.ids)), tta_views("none"), "all")
    first = job.predict_test(MACHINE, store, request, DISPLAY)
    path = job.folder.path / "test_logits" / "all.002.npz"
    intact, save, saved = path.read_bytes(), FoldFolder.save_test_slice, []
    path.write_bytes(intact[:-100])

    def save_and_count(self, *arguments):
        saved.append(arguments[1])
        save(self, *arguments)

    monkeypatch.setattr(FoldFolder, "save_test_slice", save_and_count)
    second = job.predict_test(MACHINE, store, request, DISPLAY)

    assert saved == [2]
    assert path.read_bytes() == intact
    assert second.logits.tobytes() == first.logits.tobytes()


def test_fold_is_not_trained_on_its_validation_images(make_job, data):
    """Other pixels in the validation images change no weight."""
    store, table = data
    images = np.array(store.images)
    images[table.folds == 1] = 255 - images[table.folds == 1]
    train(make_job("first"), store, table)
    train(make_job("second"), type(store)(store.ids, images, "", store.folder), table)

    first, second = (make_job(name).folder for name in ("first", "second"))
    assert (first.path / "weights.safetensors").read_bytes() == (second.path / "weights.safetensors").read_bytes()
    assert not np.array_equal(first.out_of_fold().logits, second.out_of_fold().logits)


def diverging(make_job, name):
    """A job of a single step, whose weights are finite and whose predictions are not."""
    optimizer = {"lr": 1e30, "muon": {"lr": 0.1}}
    changes = {"epochs": 1, "batch_size": 4096, "ema_decay": 0.0, "optimizer": optimizer}
    train_config = {**MEMBER.train.model_dump(), **changes}
    member = MemberConfig.model_validate({**MEMBER.model_dump(), "train": train_config})
    return replace(make_job(name), member=member)


def test_fold_with_predictions_that_are_not_finite_is_never_finished(make_job, data):
    store, table = data
    job = diverging(make_job, "fold")
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"not finite.* [lL]ower train\.optimizer\.lr .*another --run$"):
            train(job, store, table)
        assert not job.folder.is_trained
        assert not (job.folder.path / "out_of_fold.npz").exists()


def test_state_that_is_not_finite_is_not_saved(make_job, data, monkeypatch):
    store, table = data
    job = make_job("fold")
    tensors, calls = Trainer.tensors, itertools.count(1)

    def diverge(trainer):
        state = tensors(trainer)
        return {**state, "model.head.weight": state["model.head.weight"] * torch.inf} if next(calls) == 2 else state

    monkeypatch.setattr(Trainer, "tensors", diverge)
    with pytest.raises(TrainingError, match=r"model\.head\.weight is not finite after epoch 2"):
        train(job, store, table)

    checkpoint = job.folder.load_checkpoint()
    assert len(checkpoint.history) == 1
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())


def test_older_predictions_that_are_not_finite_are_corrupted(two_trained_jobs, data):
    store, _ = data
    job, _ = two_trained_jobs
    predictions = job.folder.out_of_fold()
    path = job.folder.path / "out_of_fold.npz"
    save_predictions(path, Predictions(predictions.ids, np.full_like(predictions.logits, np.nan)))
    message = (
        r"out_of_fold\.npz is corrupted \(logits that are not finite; .*\); delete .*first and rerun the same command"
    )
    with pytest.raises(CorruptedFileError, match=message) as raised:
        job.folder.out_of_fold()
    assert raised.value.reason.endswith("had diverged)")

    request = PredictRequest(np.arange(20), tta_views("none"), "all")
    expected = job.predict_test(MACHINE, store, request, DISPLAY)
    invalid = Predictions(expected.ids, np.where(np.arange(10) == 3, np.inf, expected.logits).astype(np.float32))
    job.folder.save_test_slice("all", 0, invalid)
    assert np.array_equal(job.predict_test(MACHINE, store, request, DISPLAY).logits, expected.logits)


def test_error_of_a_corrupted_file_travels_between_processes():
    error = CorruptedFileError.of(Path("run/net/fold_0/out_of_fold.npz"), ValueError("bad\nmagic"))
    for copied in (pickle.loads(pickle.dumps(error)), type(error)(f"net fold 0: {error}")):
        assert isinstance(copied, CorruptedFileError)
        assert copied.reason.endswith("run/net/fold_0/out_of_fold.npz is corrupted (bad magic)")
        assert str(copied).endswith("; delete run/net/fold_0 and rerun the same command to recreate this fold")


def test_workers_end_with_the_job(make_job, data):
    job = make_job("fold")
    results = job.train(replace(MACHINE, num_workers=2), *data, DISPLAY)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []
