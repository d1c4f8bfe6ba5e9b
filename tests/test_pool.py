"""Several devices in one machine, each with a process of its own. Here the devices are CPUs."""

import pickle
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.progress import Progress

from pipeline.cascade import predict_cascade
from pipeline.config import CascadeConfig, MachineConfig
from pipeline.data.image_cache import prepare_images
from pipeline.data.source import find_source
from pipeline.ensemble import Ensemble
from pipeline.errors import TrainingError
from pipeline.executors.arrangement import Slots, device_names
from pipeline.executors.executor import TrainingObserver
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.executors.local import LocalExecutor
from pipeline.executors.pool import PoolExecutor
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.predict import tta_views
from pipeline.member_config import MemberConfig
from pipeline.predictions import join
from pipeline.progress import ProgressDisplay
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.task import CIFAR10

DISPLAY = ProgressDisplay(Progress(disable=True), 0.0)
ONE_THREAD = MachineConfig(threads_per_job=1, autocast="off")
TWO_SLOTS = Slots(("cpu", "cpu"), 2)
ENSEMBLE = Ensemble({"net": 0.9}, {"net": 1.0})
CASCADE = CascadeConfig(calibration_size=12, max_accuracy_drop=0.0, max_forward_passes=4.5)
MEMBER = MemberConfig.model_validate(
    {
        "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
        "train": {"epochs": 2, "batch_size": 32, "optimizer": {"muon": {"lr": 0.1}}},
    }
)


@pytest.fixture
def data(zip_folder, tmp_path):
    source = find_source(zip_folder, CIFAR10)
    labels = source.labels()
    table = FoldTable(labels.ids, labels.labels, np.arange(len(labels.ids)) % 3, np.arange(len(labels.ids)))
    return {split: prepare_images(source, split, tmp_path / "cache" / split) for split in ("train", "test")}, table


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield set_up_machine(ONE_THREAD)
    torch.set_num_threads(before)


def jobs_in(folder, member=MEMBER):
    return [FoldJob("net", member, CIFAR10, n, n, "flip", FoldFolder(folder / str(n)), num_threads=1) for n in range(3)]


def pool(slots=TWO_SLOTS):
    return PoolExecutor(slots, ONE_THREAD, Machine(), prediction_threads=1)


def run_jobs(executor, folder, data):
    """Train, predict everything, predict with the cascade; return all results, and the bytes of all files."""
    stores, table = data
    jobs = jobs_in(folder)
    out_of_fold = executor.train(jobs, stores["train"], table, DISPLAY)
    request = PredictRequest(np.arange(len(stores["test"].ids)), tta_views("flip"), "all")
    predicted = list(executor.predict([(job, request) for job in jobs], stores["test"], DISPLAY))
    cascade = predict_cascade(
        jobs, ENSEMBLE, stores["test"], executor, DISPLAY,
        config=CASCADE, seed=1, fold_jobs=jobs, out_of_fold=join(out_of_fold),
    )  # fmt: skip
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".npz")]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return [(part.ids.tolist(), part.logits.tobytes()) for part in (*out_of_fold, *predicted)], cascade, files


def test_two_devices_give_the_same_bytes_as_one(data, tmp_path, one_thread, caplog, monkeypatch):
    # Independent of what another test's command has set up: each line is captured once.
    monkeypatch.setattr("pipeline.progress.log.handlers", [caplog.handler])
    monkeypatch.setattr("pipeline.progress.log.propagate", False)
    with caplog.at_level("INFO", "pipeline"), pool() as executor:
        predictions, cascade, files = run_jobs(executor, tmp_path / "pool", data)
    lines = [record.getMessage() for record in caplog.records]
    local_predictions, local_cascade, local_files = run_jobs(LocalExecutor(one_thread), tmp_path / "local", data)

    assert len(predictions) == 3 + 3
    assert predictions == local_predictions
    assert sum("cascade" not in name and "sample" not in name for name in files) == 3 * 3
    assert files == local_files
    assert sum("epoch 2/2" in line for line in lines) == 3
    assert sum(": validation accuracy" in line for line in lines) == 3
    assert cascade.stats.expected_accuracy_drop is not None
    assert len(cascade.stats.stages) > 1
    assert cascade.stats == local_cascade.stats
    assert cascade.forward_passes.tolist() == local_cascade.forward_passes.tolist()
    assert cascade.predictions.logits.tobytes() == local_cascade.predictions.logits.tobytes()


def test_user_error_of_a_worker_names_its_job(data, tmp_path):
    stores, table = data
    train = {"epochs": 9, "optimizer": {"lr": 1e30}, "validate_every": 0}
    diverging = MEMBER.model_copy(update={"train": MEMBER.train.model_validate(train)})
    with (
        pool(Slots(("cpu",), 1)) as executor,
        pytest.raises(TrainingError, match=r"^net fold \d: the loss is (nan|inf) at epoch"),
    ):
        executor.train(jobs_in(tmp_path, diverging), stores["train"], table, DISPLAY)


def test_predictions_keep_the_order_of_their_requests(data, tmp_path, monkeypatch):
    """The slices of the last request are predicted first."""
    stores, table = data
    jobs = jobs_in(tmp_path)
    request = PredictRequest(np.arange(3), tta_views("none"), "all")
    with pool() as executor:
        executor.train(jobs, stores["train"], table, DISPLAY)
        in_order = list(executor.predict([(job, request) for job in jobs], stores["test"], DISPLAY))
        run = executor._workers.run
        monkeypatch.setattr(executor._workers, "run", lambda *arguments: reversed(list(run(*arguments))))
        request = replace(request, stage="again")
        reversed_order = list(executor.predict([(job, request) for job in jobs], stores["test"], DISPLAY))

    assert [part.logits.tolist() for part in reversed_order] == [part.logits.tolist() for part in in_order]


def test_bars_logs_and_epochs_of_workers_arrive(data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.progress.log.handlers", [caplog.handler])
    monkeypatch.setattr("pipeline.progress.log.propagate", False)
    stores, table = data
    display, observer = RecordingDisplay(), RecordingObserver()
    with caplog.at_level("INFO", "pipeline"), pool() as executor:
        predictions = executor.train(jobs_in(tmp_path), stores["train"], table, display, observer)
    lines = [record.getMessage() for record in caplog.records]

    assert sorted(display.closed) == sorted(display.opened)
    assert sorted(display.opened) == sorted(
        f"net fold {n}{part}" for n in range(3) for part in ("", ": validation images")
    )
    assert all(done == total for done, total in display.last.values())
    for n in range(3):
        parts = ("epoch 1/2", "epoch 2/2", "predicted", "validation accuracy")
        ours = [line for line in lines if line.startswith(f"net fold {n}: ")]
        assert [part in line for part, line in zip(parts, ours, strict=True)] == [True] * 4
        assert observer.calls[f"net fold {n}"] == [1, 2, predictions[n]]


def test_observer_is_called_in_this_process_with_epochs_and_results(data, tmp_path, one_thread):
    stores, table = data
    observer = RecordingObserver()
    predictions = LocalExecutor(one_thread).train(jobs_in(tmp_path)[:2], stores["train"], table, DISPLAY, observer)

    assert observer.calls == {f"net fold {n}": [1, 2, predictions[n]] for n in range(2)}


class RecordingObserver(TrainingObserver):
    """Remembers each job's epochs, and its predictions."""

    def __init__(self):
        self.calls = {}

    def on_epoch(self, job, record):
        self.calls.setdefault(str(job), []).append(record.epoch)

    def on_trained(self, job, predictions):
        self.calls[str(job)].append(predictions)


class RecordingDisplay:
    """A display that remembers its bars."""

    def __init__(self):
        self.opened, self.closed, self.last = [], [], {}

    @contextmanager
    def bar(self, title, **_settings):
        self.opened.append(title)
        yield RecordingBar(self, title)
        self.closed.append(title)

    def eta(self):
        return None


class RecordingBar:
    def __init__(self, display, title):
        self._display, self._title = display, title

    def __call__(self, done, total):
        self._display.last[self._title] = done, total

    def set_postfix(self, text):
        assert text


def test_every_cuda_device_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)

    assert device_names(Machine(torch.device("cuda"))) == ("cuda:0", "cuda:1", "cuda:2")
    assert device_names(Machine(torch.device("cpu"))) == ("cpu",)


def test_images_are_pickled_as_their_folder(data):
    store = data[0]["train"]
    pickled = pickle.dumps(store)
    loaded = pickle.loads(pickled)

    assert len(pickled) < store.images.nbytes / 10
    assert np.array_equal(loaded.images, store.images)
    assert (loaded.ids.tolist(), loaded.checksum) == (store.ids.tolist(), store.checksum)
