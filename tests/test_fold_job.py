import itertools
import shutil

import numpy as np
import pytest
from rich.progress import Progress

from pipeline.data.image_cache import prepare_images
from pipeline.data.source import find_source
from pipeline.config import MemberConfig
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.learning.device import Machine
from pipeline.learning.predict import tta_views
from pipeline.progress import ProgressDisplay
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import FoldTable

MACHINE = Machine()
VIEW = ProgressDisplay(Progress(disable=True), 0.0)
MEMBER = MemberConfig.model_validate(
    {
        "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
        "train": {"epochs": 3, "batch_size": 32, "ema_decay": 0.5, "optimizer": {"muon": {"lr": 0.1}}},
    }
)


@pytest.fixture
def make_job(tmp_path):
    return lambda name: FoldJob("net", MEMBER, 1, 5, "mirror", FoldFolder(tmp_path / name))


@pytest.fixture
def data(zip_folder, tmp_path):
    source = find_source(zip_folder)
    labels = source.labels()
    folds = np.arange(len(labels.ids)) % 4
    table = FoldTable(labels.ids, labels.classes, folds, np.arange(len(labels.ids)))
    return prepare_images(source, "train", tmp_path / "cache"), table


class Killed(BaseException):
    """Ends a job as a kill would, at a chosen place."""


@pytest.mark.parametrize("after", [1, 2, 3], ids=["first epoch", "second epoch", "last epoch, before it is judged"])
def test_a_job_that_is_killed_goes_on_to_the_same_bytes(make_job, data, monkeypatch, after):
    store, table = data
    whole, killed = make_job("whole"), make_job("killed")
    list(whole.train(MACHINE, store, table, VIEW))
    calls = itertools.count(1)
    keep = FoldFolder.save_checkpoint

    def keep_and_die(self, *arguments):
        keep(self, *arguments)
        if next(calls) == after:
            raise Killed

    monkeypatch.setattr(FoldFolder, "save_checkpoint", keep_and_die)
    with pytest.raises(Killed):
        list(killed.train(MACHINE, store, table, VIEW))
    assert not killed.folder.is_trained
    monkeypatch.undo()

    list(make_job("killed").train(MACHINE, store, table, VIEW))

    for name in ("weights.safetensors", "out_of_fold.npz"):
        assert (killed.folder.path / name).read_bytes() == (whole.folder.path / name).read_bytes()


def test_the_kept_score_is_that_of_the_reloaded_weights(make_job, data):
    store, table = data
    job = make_job("fold")
    list(job.train(MACHINE, store, table, VIEW))
    held_out = table.folds == 1
    kept = job.folder.out_of_fold()
    job.predict_test(MACHINE, store, PredictRequest(np.flatnonzero(held_out), tta_views("mirror"), "all"), VIEW)

    assert np.array_equal(kept.ids, table.ids[held_out])
    assert np.array_equal(job.folder.test("all").ids, kept.ids)
    assert np.array_equal(job.folder.test("all").probabilities, kept.probabilities)


def test_a_prediction_that_is_killed_costs_one_slice(make_job, data, monkeypatch):
    store, table = data
    monkeypatch.setattr("pipeline.executors.fold_job.SLICE", 50)
    whole, killed = make_job("whole"), make_job("killed")
    list(whole.train(MACHINE, store, table, VIEW))
    shutil.copytree(whole.folder.path, killed.folder.path)
    rows, views, heard = np.arange(len(store.ids)), tta_views("identity"), []
    whole.predict_test(MACHINE, store, PredictRequest(rows, views, "all"), VIEW)
    calls, keep = itertools.count(1), FoldFolder.save_test

    def keep_and_die(self, *arguments):
        keep(self, *arguments)
        heard.append(arguments[1])
        if next(calls) == 2:
            raise Killed

    monkeypatch.setattr(FoldFolder, "save_test", keep_and_die)
    with pytest.raises(Killed):
        killed.predict_test(MACHINE, store, PredictRequest(rows, views, "all"), VIEW)
    killed.predict_test(MACHINE, store, PredictRequest(rows, views, "all"), VIEW)

    assert heard == list(range(-(-len(rows) // 50)))
    for path in (whole.folder.path / "test").iterdir():
        assert (killed.folder.path / "test" / path.name).read_bytes() == path.read_bytes()


def test_a_fold_never_sees_what_it_holds_out(make_job, data):
    """Other pixels in the images held out change no weight."""
    store, table = data
    images = np.array(store.images)
    images[table.folds == 1] = 255 - images[table.folds == 1]
    list(make_job("one").train(MACHINE, store, table, VIEW))
    list(make_job("other").train(MACHINE, type(store)(store.ids, images, "", store.folder), table, VIEW))

    one, other = (make_job(name).folder for name in ("one", "other"))
    assert (one.path / "weights.safetensors").read_bytes() == (other.path / "weights.safetensors").read_bytes()
    assert not np.array_equal(one.out_of_fold().probabilities, other.out_of_fold().probabilities)
