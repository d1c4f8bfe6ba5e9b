"""Faults that need several processes, many files or another file system; each must end within its limit."""

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.task import CIFAR10
from tests.faults.harness import LOST, REFUSED, ROOT, SAME, Finished, Job, classify, flip_bit, truncate
from tests.kaggle_server import KaggleServer

NUM_TEST = 30_000
SECONDS_AFTER_ERROR = 2.0  # until a process that has printed its error must have ended
LIMIT = 300.0  # seconds of a whole command; two demos at once share the cores
Result = tuple[str, str, str]  # fault, outcome, output
# On a small task: the rows of its submission are those that Kaggle expects.
SUBMIT = """
import sys
from dataclasses import replace
from pipeline.cli import main
from pipeline.task import CIFAR10
sys.argv[0] = "run.py"
main(replace(CIFAR10, num_test=120))
"""


def process_faults(reference: Job, folder: Path) -> Iterator[Callable[[Path], list[Result]]]:
    """Yield every fault of this module; `folder` gets the dataset with many test images."""
    large = folder / "large"
    make_synthetic_dataset(large, num_train=500, num_test=NUM_TEST, seed=4)
    with zipfile.ZipFile(large / CIFAR10.zip_name) as download:
        download.extractall(large)
    (large / CIFAR10.zip_name).unlink()
    for spoil in (semicolons, no_labels, corrupted_train, corrupted_test, truncated_train):
        yield partial(error_while_reading, large, spoil)
    yield partial(disk_full_while_reading, large)
    for _ in range(3):
        yield partial(two_jobs, reference)
    yield two_demos
    for _ in range(3):
        yield two_submits
    for size in ("64k", "4m", "read-only"):
        yield partial(small_shared_memory, reference, size)


def semicolons(folder: Path) -> None:
    """Separate the labels by semicolons."""
    path = folder / CIFAR10.train_labels_csv
    path.write_text(path.read_text().replace(",", ";"))


def no_labels(folder: Path) -> None:
    """Remove the labels."""
    (folder / CIFAR10.train_labels_csv).unlink()


def corrupted_train(folder: Path) -> None:
    """Flip a bit of the training images."""
    flip_bit(folder / CIFAR10.train_archive)


def corrupted_test(folder: Path) -> None:
    """Flip a bit of the test images."""
    flip_bit(folder / CIFAR10.test_archive)


def truncated_train(folder: Path) -> None:
    """Truncate the archive of the training images."""
    truncate(folder / CIFAR10.train_archive)


def error_while_reading(large: Path, spoil: Callable[[Path], None], folder: Path) -> list[Result]:
    """Spoil one split while the other, with many images, is read."""
    _copy(large, folder / "input")
    spoil(folder / "input")
    return [("error while the other split is read", *_ends_soon(_start(folder, "prepare")))]


def disk_full_while_reading(large: Path, folder: Path) -> list[Result]:
    """Limit the size of files to less than the decoded images need."""
    _copy(large, folder / "input")
    command = f"ulimit -f 10000; exec {sys.executable} {ROOT / 'run.py'} prepare"
    return [("disk full while images are read", *_ends_soon(_popen(folder, ["bash", "-c", command])))]


def two_jobs(reference: Job, folder: Path) -> list[Result]:
    """Start two jobs at once on an input that is not decoded yet."""
    jobs = [Job.new(folder), Job(folder, name="second")]
    processes = [job.start() for job in jobs]
    finished = [job.wait(process) for job, process in zip(jobs, processes, strict=True)]
    return [
        ("two jobs at once on a new input", classify(job, reference, end), end.output)
        for job, end in zip(jobs, finished, strict=True)
    ]


def two_demos(folder: Path) -> list[Result]:
    """Start two demos at once in an empty folder."""
    folder.mkdir()
    epochs = [f"members.{member}.train.epochs=1" for member in ("airbench", "tutorial_cnn")]
    options = ["-q", *(part for value in epochs for part in ("--set", value))]
    processes = [_start(folder, "demo", *options, "--run", name) for name in ("first", "second")]
    ends = [_wait(process) for process in processes]
    submissions = [folder / "submissions" / name / "submission.csv" for name in ("first", "second")]
    same = all(end.status == 0 for end in ends) and submissions[0].read_bytes() == submissions[1].read_bytes()
    return [("two demos at once", SAME if same else LOST, "".join(end.output for end in ends))] * 2


def two_submits(folder: Path) -> list[Result]:
    """Submit one file twice at once; Kaggle must get it once, and the ledger must know it."""
    make_synthetic_dataset(folder / "input", num_train=20, num_test=120, seed=3)
    with zipfile.ZipFile(folder / "input" / CIFAR10.zip_name) as download:
        download.extract(CIFAR10.sample_submission_csv, folder)
    inherited = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    with KaggleServer().running() as server:
        account = {"HOME": str(folder), "KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "0" * 32}
        address = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": server.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SUBMIT, "submit", CIFAR10.sample_submission_csv, "--no-wait"]
        processes = [_popen(folder, command, inherited | account | address) for _ in range(2)]
        ends = [_wait(process) for process in processes]
        output = "".join(end.output for end in ends)
        is_once = len(server.submissions) == 1 and "1000" in (folder / "submissions/ledger.json").read_text()
    is_clear = all(end.status == 0 or end.has_clear_error for end in ends)
    return [("two submits at once", REFUSED if is_once and is_clear else LOST, output)]


def small_shared_memory(reference: Job, size: str, folder: Path) -> list[Result]:
    """Give the data workers a small or read-only /dev/shm, where mounts are allowed."""
    options = "ro" if size == "read-only" else f"size={size}"
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    prefix = ("unshare", "-m", "bash", "-c", mount, "bash")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        return []
    job = Job.new(folder, extra=("--set", "machine.num_workers=2"))
    process = job.start(prefix)
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        return [("small /dev/shm with data workers", LOST, job.output())]
    end = Finished(process.returncode, job.output())
    return [("small /dev/shm with data workers", classify(job, reference, end), end.output)]


def _copy(large: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in large.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return _popen(folder, [sys.executable, str(ROOT / "run.py"), *arguments])


def _popen(folder: Path, command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _wait(process: subprocess.Popen[str]) -> Finished:
    try:
        output = process.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return Finished(-1, f"it did not end: {process.communicate()[0]}")
    return Finished(process.returncode, output)


def _ends_soon(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the outcome of a command that must print an error and end soon after it."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("error: "):
            break
    printed = time.monotonic()
    end = _wait(process)
    output = "".join(lines) + end.output
    is_soon = time.monotonic() - printed < SECONDS_AFTER_ERROR
    is_clear = Finished(end.status, output).has_clear_error
    return (REFUSED if is_soon and is_clear else LOST), output
