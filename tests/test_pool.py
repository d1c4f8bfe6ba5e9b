"""Several devices in one machine, each with a process of its own. CPUs stand for them here."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from pipeline.data.image_cache import prepare_images
from pipeline.data.source import find_source
from pipeline.config import MachineConfig, MemberConfig
from pipeline.errors import RunError, TrainingError
from pipeline.executors.pool import PoolExecutor, device_names
from pipeline.executors.local import LocalExecutor
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.predict import tta_views
from pipeline.progress import ProgressDisplay
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import FoldTable

VIEW = ProgressDisplay(Progress(disable=True), 0.0)
ONE_THREAD = MachineConfig(num_threads=1, autocast="off")
MEMBER = MemberConfig.model_validate(
    {
        "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
        "train": {"epochs": 2, "batch_size": 32, "optimizer": {"muon": {"lr": 0.1}}},
    }
)


@pytest.fixture
def data(zip_folder, tmp_path):
    source = find_source(zip_folder)
    labels = source.labels()
    table = FoldTable(labels.ids, labels.classes, np.arange(len(labels.ids)) % 3, np.arange(len(labels.ids)))
    return {split: prepare_images(source, split, tmp_path / "cache" / split) for split in ("train", "test")}, table


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield set_up_machine(ONE_THREAD)
    torch.set_num_threads(before)


def jobs_in(folder, member=MEMBER):
    return [FoldJob("net", member, n, n, "mirror", FoldFolder(folder / str(n))) for n in range(3)]


def run_jobs(executor, folder, data):
    stores, table = data
    jobs = jobs_in(folder)
    executor.train(jobs, stores["train"], table, VIEW)
    asked = PredictRequest(np.arange(len(stores["test"].ids)), tta_views("mirror"), "all")
    executor.predict([(job, asked) for job in jobs], stores["test"], VIEW)
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".npz")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_two_devices_give_the_bytes_of_one(data, tmp_path, one_thread, caplog, monkeypatch):
    # Whatever a command that another test called has set up: each line is heard once.
    monkeypatch.setattr("pipeline.progress.log.handlers", [caplog.handler])
    monkeypatch.setattr("pipeline.progress.log.propagate", False)
    with PoolExecutor(("cpu", "cpu"), ONE_THREAD) as devices, caplog.at_level("INFO", "pipeline"):
        spread = run_jobs(devices, tmp_path / "spread", data)
    said = [record.getMessage() for record in caplog.records]

    assert len(spread) == 3 * 3
    assert spread == run_jobs(LocalExecutor(one_thread), tmp_path / "local", data)
    assert sum("on cpu: epoch 2 of 2" in line for line in said) == 3
    assert sum("on the images held out" in line for line in said) == 3


def test_an_error_of_ours_names_its_job(data, tmp_path):
    stores, table = data
    optimizer = {"lr": 1e30}
    hopeless = MEMBER.model_copy(update={"train": MEMBER.train.model_validate({"epochs": 9, "optimizer": optimizer})})
    with (
        PoolExecutor(("cpu",), ONE_THREAD) as executor,
        pytest.raises(TrainingError, match=r"^net fold \d: the loss is (nan|inf) at epoch"),
    ):
        executor.train(jobs_in(tmp_path, hopeless), stores["train"], table, VIEW)


def _die(_number, _job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told():
    with (
        PoolExecutor(("cpu", "cpu"), ONE_THREAD) as executor,
        pytest.raises(RunError, match="was killed, most often because the memory ran out"),
    ):
        list(executor.run([(_die, 0, "net fold 0")], print))


ENDLESS = """
import multiprocessing, time
from pipeline.config import MachineConfig
from pipeline.executors.pool import PoolExecutor

def sleep(seconds, _job):
    time.sleep(seconds)

if __name__ == "__main__":
    with PoolExecutor(("cpu", "cpu"), MachineConfig(num_threads=1)) as executor:
        sleeps = executor.run([(pow, 1, 2), (sleep, 600, 0)], print)
        next(sleeps)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        next(sleeps)
"""


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_no_process_outlives_the_one_that_was_started_by_hand(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ["PYTHONPATH"]])
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    pids = process.stdout.readline().split()
    process.kill()
    process.communicate()
    until = time.monotonic() + 20
    while any(map(_runs, pids)) and time.monotonic() < until:
        time.sleep(0.1)

    assert pids
    assert not any(map(_runs, pids))


def test_every_cuda_device_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)

    assert device_names(Machine(torch.device("cuda"))) == ("cuda:0", "cuda:1", "cuda:2")
    assert device_names(Machine(torch.device("cpu"))) == ("cpu",)


def test_images_travel_as_the_place_where_they_are(data):
    store = data[0]["train"]
    sent = pickle.dumps(store)
    received = pickle.loads(sent)

    assert len(sent) < store.images.nbytes / 10
    assert np.array_equal(received.images, store.images)
    assert (received.ids.tolist(), received.checksum) == (store.ids.tolist(), store.checksum)
