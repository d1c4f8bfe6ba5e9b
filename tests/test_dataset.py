import errno
import multiprocessing
import multiprocessing.synchronize
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.learning import data_workers
from pipeline.learning.augment import Augmentation
from pipeline.learning.data_workers import dataloader_errors
from pipeline.learning.dataset import AugmentedImages, TrainLoader
from pipeline.member_config import AugmentStep

STEPS = [AugmentStep(name="HorizontalFlip", params={"p": 0.5})]
IMAGES = np.random.default_rng(0).integers(0, 256, size=(512, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(512) % 10


def loader(num_workers, images=IMAGES, batch_size=128):
    return TrainLoader(AugmentedImages(images, LABELS, STEPS, 3), batch_size, 3, num_workers)


def test_killed_worker_is_a_training_error_wherever_torch_raises_it():
    message = r"a DataLoader worker was killed.*machine\.num_workers"
    with pytest.raises(TrainingError, match=message), dataloader_errors():
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that",
            r"lost \(is killed .*: Bus error\)",
        ),
        ("DataLoader worker (pid 1) exited unexpectedly with exit code 1. Details", r"lost \(exited .* exit code 1\)"),
        ("DataLoader worker (pid(s) 1, 23) exited unexpectedly", r"lost \(exited unexpectedly\)"),
    ],
)
def test_lost_worker_is_a_training_error_with_its_cause(text, message):
    message = rf"a DataLoader worker was {message}; .*machine\.num_workers"
    with pytest.raises(TrainingError, match=message), dataloader_errors():
        raise RuntimeError(text)


@pytest.mark.parametrize(
    "text", ["shapes do not match", "Caught RuntimeError in DataLoader worker process 0.\nOriginal"]
)
def test_other_errors_are_not_converted(text):
    with pytest.raises(RuntimeError, match=text) as raised, dataloader_errors():
        raise RuntimeError(text)
    assert not isinstance(raised.value, TrainingError)


def end_of_the_whole_job():
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated. ")


def test_end_of_the_whole_job_is_an_interruption():
    with pytest.raises(KeyboardInterrupt), dataloader_errors():
        end_of_the_whole_job()


def test_batches_of_workers_need_no_shared_memory(monkeypatch):
    def fail(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(data_workers, "WORKER_TIMEOUT", 20.0)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", fail)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", fail)
    with loader(2) as with_workers:
        for (images, labels), (expected, expected_labels) in zip(
            with_workers.epoch(0), loader(0).epoch(0), strict=True
        ):
            assert torch.equal(images, expected)
            assert torch.equal(labels, expected_labels)
            assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, r"/dev/shm is full or read-only: docker run --shm-size=1g, or set machine\.num_workers=0"),
        (errno.EROFS, r"/dev/shm is full or read-only: docker run --shm-size=1g, or set machine\.num_workers=0"),
        (errno.EMFILE, r"rerun the same command with a smaller machine\.num_workers \(0 needs no worker\)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_workers_that_do_not_start_are_a_training_error(number, remedy, monkeypatch):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", fail)
    message = rf"the DataLoader workers can't be started \(\[Errno {number}\] .*\); {remedy}$"
    with pytest.raises(TrainingError, match=message), loader(2) as with_workers:
        next(with_workers.epoch(0))


def test_process_limit_is_a_training_error(monkeypatch):
    def fail(_process):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.Process, "start", fail)
    message = r"can't be started \(.*temporarily unavailable\); rerun .* smaller"
    with pytest.raises(TrainingError, match=message), loader(2) as with_workers:
        next(with_workers.epoch(0))


@contextmanager
def no_children_left():
    yield
    assert multiprocessing.active_children() == []


def test_workers_end_with_the_block():
    with no_children_left(), loader(2) as with_workers:
        batches = with_workers.epoch(0)
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert batches is not None, "an iterator that is still referenced, as by the traceback of an error"


def test_workers_end_after_an_error_in_the_training_step():
    error = None
    with no_children_left():
        try:
            with loader(2) as with_workers:
                for _ in with_workers.epoch(0):
                    raise ValueError("the loss is nan")
        except ValueError as raised:
            error = raised
    assert str(error) == "the loss is nan"


def test_watchdog_ends_with_the_epoch():
    with loader(2) as with_workers:
        batches = with_workers.epoch(0)
        next(batches)
        assert "watchdog" in [thread.name for thread in threading.enumerate()]
        batches.close()
        assert [len(images) for images, _ in with_workers.epoch(1)] == [128] * 4
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("which", "message"), [(signal.SIGSTOP, r"have returned no batch for 2 s"), (signal.SIGKILL, r"was (killed|lost)")]
)
@pytest.mark.parametrize("num_lost", [1, 2])
@pytest.mark.parametrize("batch", [1, 3], ids=["within an epoch", "after its last batch"])
def test_worker_that_hangs_or_dies_is_an_error_soon(which, message, num_lost, batch, monkeypatch):
    """The batches are larger than a pipe's buffer: a worker stops in the middle of one."""
    monkeypatch.setattr(data_workers, "WORKER_TIMEOUT", 2.0)

    def lose_workers():
        with loader(2) as with_workers:
            for epoch in range(1000):
                for index, _ in enumerate(with_workers.epoch(epoch)):
                    if (epoch, index) == (1, batch):
                        time.sleep(0.3)
                        for worker in multiprocessing.active_children()[:num_lost]:
                            os.kill(worker.pid, which)

    start = time.monotonic()
    with no_children_left(), pytest.raises(TrainingError, match=message), dataloader_errors():
        lose_workers()
    assert time.monotonic() - start < 30


def test_error_of_an_augmentation_in_a_worker_is_its_text_alone(monkeypatch):
    def fail(_augmentation, _images, _seed):
        raise TrainingError("the augmentation of the training images failed: ValueError: shapes: (1, 2)")

    monkeypatch.setattr(Augmentation, "__call__", fail)
    for num_workers in (0, 1):
        with pytest.raises(TrainingError) as raised, loader(num_workers) as failing:
            next(failing.epoch(0))
        assert str(raised.value) == "the augmentation of the training images failed: ValueError: shapes: (1, 2)"


MOUNTED = "mount -t tmpfs -o {options} tmpfs /dev/shm && exec {python} {script}"
SCRIPT = """
import numpy as np
from pipeline.errors import TrainingError
from pipeline.learning.dataset import AugmentedImages, TrainLoader
images = np.zeros((4096, 32, 32, 3), np.uint8)
try:
    with TrainLoader(AugmentedImages(images, np.zeros(4096, np.int64), [], 0), 1024, 0, 2) as loader:
        print(sum(len(batch) for batch, _ in loader.epoch(0)))
except TrainingError as error:
    print(error)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("options", "expected"), [("size=64k", "4096"), ("ro", "/dev/shm is full or read-only"), ("size=4k", "--shm")]
)
def test_workers_run_in_a_small_shared_memory_or_report_it(options, expected, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = MOUNTED.format(options=options, python=sys.executable, script=tmp_path / "script.py")
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if any(text in done.stderr for text in ("unshare", "mount:")):
        pytest.skip("no permission to mount")

    assert expected in done.stdout
    assert "Traceback" not in done.stderr
