"""A tiny synthetic dataset, a job over all stages, and ways to corrupt its files."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.task import CIFAR10

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
members:
  airbench:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    augment:
      - {name: HorizontalFlip, params: {p: 0.5}}
    train: {epochs: 4, batch_size: 16, ema_decay: 0.5, optimizer: {muon: {lr: 0.1}}}
folds: {num_folds: 2}
predict: {cascade: {calibration_size: 20, max_accuracy_drop: 0.3}}
machine: {jobs: 1, threads_per_job: 1}
"""
# The files of a finished run that are reproducible byte for byte; the others contain times.
RESULTS = ("submission.csv", "test_predictions.npz", "folds.csv", "ensemble.json", "cascade.json")
SAME, REFUSED, LOST = "same bytes", "clear error", "lost"


@dataclass(frozen=True)
class Finished:
    """Exit status and output of a command."""

    status: int
    output: str

    @property
    def has_clear_error(self) -> bool:
        """Whether it failed with an error for the user, without a traceback."""
        return self.status != 0 and "error: " in self.output and "Traceback" not in self.output


class Job:
    """A folder with its own input in which the whole job runs any number of times."""

    def __init__(self, folder: Path, *, extra: tuple[str, ...] = (), name: str = "tiny") -> None:
        self.folder = folder
        self.run = folder / "submissions" / name
        self._output = folder / f"{name}.txt"
        run_all = [sys.executable, str(ROOT / "run.py"), "all", "--config", "tiny.yaml", "--run", name]
        self._command = [*run_all, *extra]

    @classmethod
    def new(cls, folder: Path, *, extra: tuple[str, ...] = (), config: str = CONFIG, num_train: int = 200) -> Self:
        """Create a job on a new copy of the dataset; the images are the same every time."""
        make_synthetic_dataset(folder / "input", num_train=num_train, num_test=120, seed=3)
        (folder / "tiny.yaml").write_text(config)
        return cls(folder, extra=extra)

    def copy(self, folder: Path) -> "Job":
        """Copy the job with its progress to another folder."""
        shutil.copytree(self.folder, folder)
        original = self.folder / "input" / CIFAR10.zip_name
        os.utime(folder / "input" / original.name, ns=(0, original.stat().st_mtime_ns))
        return Job(folder)

    def start(self, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start the job in a subprocess, by another command if one is given; its output goes into a file."""
        with self._output.open("wb") as file:
            return subprocess.Popen(
                [*prefix, *self._command], cwd=self.folder, stdout=file, stderr=file, preexec_fn=restore_interrupts
            )

    def start_work(self) -> subprocess.Popen[bytes]:
        """Start the job and wait until it has locked the run: importing torch is most of a tiny job's time."""
        before = self._locked_at()
        process = self.start()
        while process.poll() is None and self._locked_at() == before:
            time.sleep(0.01)
        return process

    def output(self) -> str:
        """Return the output so far of a job that was started."""
        return self._output.read_text(errors="replace")

    def wait(self, process: subprocess.Popen[bytes]) -> Finished:
        """Wait for the end of a job that was started."""
        process.wait(timeout=300)
        return Finished(process.returncode, self.output())

    def finish(self, *, file_limit: int | None = None, before: Callable[[], None] | None = None) -> Finished:
        """Run the job to its end, with file sizes limited to some bytes; `before` is called in its process."""

        def prepare() -> None:
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            if before is not None:
                before()

        process = subprocess.run(
            self._command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=300, check=False, preexec_fn=prepare,
        )  # fmt: skip
        return Finished(process.returncode, process.stdout)

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> Finished:
        """Send a signal some seconds after the run was locked, unless the job ends earlier."""
        process = self.start_work()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        return self.wait(process)

    def _locked_at(self) -> int:
        lock = self.run / ".lock.pid"  # written by every owner
        return lock.stat().st_mtime_ns if lock.exists() else 0

    def results(self) -> dict[str, bytes]:
        """Return the reproducible files of a finished run, with all weights and out-of-fold predictions."""
        fold_files = sorted(self.run.glob("*/fold_*/*.safetensors")) + sorted(self.run.glob("*/fold_*/*.npz"))
        paths = [self.run / name for name in RESULTS] + fold_files
        return {str(path.relative_to(self.run)): path.read_bytes() if path.exists() else b"missing" for path in paths}


def restore_interrupts() -> None:
    """Undo that background jobs of a shell, and their children, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def without_privileges() -> None:
    """Apply file permissions to root as well (Linux: drops CAP_DAC_OVERRIDE at the next exec)."""
    pr_capbset_drop, cap_dac_override = 24, 1
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override)


def run_reference(folder: Path) -> tuple[Job, float]:
    """Run a job without a fault; return it with its seconds from the lock to the end."""
    job = Job.new(folder)
    process = job.start_work()
    start = time.monotonic()
    finished = job.wait(process)
    assert finished.status == 0, finished.output
    return job, time.monotonic() - start


def classify(job: Job, reference: Job, finished: Finished) -> str:
    """Return the outcome of a job that was rerun after a fault."""
    if finished.status == 0 and job.results() == reference.results():
        return SAME
    return REFUSED if finished.has_clear_error else LOST


def truncate(path: Path) -> None:
    """Truncate a file to half of its size."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(path: Path) -> None:
    """Remove a file."""
    path.unlink()


CORRUPTIONS: dict[str, Callable[[Path], None]] = {"truncated": truncate, "bit flipped": flip_bit, "deleted": delete}


def files_of(run: Path) -> list[Path]:
    """Return every non-empty file of a run, apart from its lock."""
    files = (path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    return sorted(path for path in files if path.stat().st_size)
