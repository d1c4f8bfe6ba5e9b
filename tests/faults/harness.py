"""A tiny drawn competition, a job over all stages, and ways to harm it."""

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

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
members:
  net:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    augment:
      - {name: HorizontalFlip, params: {p: 0.5}}
    train: {epochs: 4, batch_size: 16, ema_decay: 0.5, optimizer: {muon: {lr: 0.1}}}
folds: {num_folds: 2}
predict: {selective: {sample: 20}}
machine: {num_threads: 1}
"""
# What a run must end with, byte for byte; the others hold times of the day or of the clock.
RESULTS = ("submission.csv", "test.npz", "folds.csv", "ensemble.json", "passes.json")
SAME, REFUSED, LOST = "same bytes", "refused clearly", "lost"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    said: str

    @property
    def is_clear(self) -> bool:
        """Whether it refused as it should: one error for the person, and no traceback."""
        return self.status != 0 and "error: " in self.said and "Traceback" not in self.said


class Job:
    """A folder with an input of its own in which the whole job runs, again and again."""

    def __init__(self, folder: Path, *, extra: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.run = folder / "submissions" / "tiny"
        self._said = folder / "said.txt"
        self._command = [sys.executable, str(ROOT / "run.py"), "all", "--config", "tiny.yaml", *extra]

    @classmethod
    def new(cls, folder: Path, *, extra: tuple[str, ...] = (), recipe: str = CONFIG, num_train: int = 200) -> Self:
        """Draw the competition anew: the same pictures every time."""
        make_synthetic_dataset(folder / "input", num_train=num_train, num_test=120, seed=3)
        (folder / "tiny.yaml").write_text(recipe)
        return cls(folder, extra=extra)

    def copy(self, folder: Path) -> "Job":
        """Return the same job, as far as it has come, in another folder."""
        shutil.copytree(self.folder, folder)
        os.utime(folder / "input" / "cifar-10.zip", ns=(0, (self.folder / "input" / "cifar-10.zip").stat().st_mtime_ns))
        return Job(folder)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the job in a process of its own; what it says goes into a file."""
        with self._said.open("wb") as said:
            return subprocess.Popen(
                self._command, cwd=self.folder, stdout=said, stderr=said, preexec_fn=restore_interrupts
            )

    def start_work(self) -> subprocess.Popen[bytes]:
        """Start the job and wait until it holds the run: loading torch is most of a tiny job's time."""
        before = self._locked_at()
        process = self.start()
        while process.poll() is None and self._locked_at() == before:
            time.sleep(0.01)
        return process

    def said(self) -> str:
        """Return what a job that was started has said so far."""
        return self._said.read_text(errors="replace")

    def ended(self, process: subprocess.Popen[bytes]) -> Ended:
        """Wait for the end of a job that was started."""
        process.wait(timeout=300)
        return Ended(process.returncode, self.said())

    def finish(self, *, file_limit: int | None = None, before: Callable[[], None] | None = None) -> Ended:
        """Run the job to its end, with no file larger than a limit in bytes; `before` is called in its process."""

        def limit() -> None:
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            if before is not None:
                before()

        done = subprocess.run(
            self._command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=300, check=False, preexec_fn=limit,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout)

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> Ended:
        """Send a signal so long after the work began; if it ended before, it ended."""
        process = self.start_work()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        return self.ended(process)

    def _locked_at(self) -> int:
        lock = self.run / ".lock"
        return lock.stat().st_mtime_ns if lock.exists() else 0

    def results(self) -> dict[str, bytes]:
        """Return the bytes of all that a run must end with, weights and out-of-fold predictions among them."""
        fold_files = sorted(self.run.glob("*/fold_*/*.safetensors")) + sorted(self.run.glob("*/fold_*/*.npz"))
        paths = [self.run / name for name in RESULTS] + fold_files
        return {str(path.relative_to(self.run)): path.read_bytes() if path.exists() else b"missing" for path in paths}


def restore_interrupts() -> None:
    """Take back that a shell's background jobs, and their children, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def without_privileges() -> None:
    """Make the permissions of files hold for root as well (Linux: no CAP_DAC_OVERRIDE after the next exec)."""
    pr_capbset_drop, cap_dac_override = 24, 1
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override)


def undisturbed(folder: Path) -> tuple[Job, float]:
    """Run a job that nobody harms; return it with the seconds that its work took."""
    job = Job.new(folder)
    process = job.start_work()
    began = time.monotonic()
    ended = job.ended(process)
    assert ended.status == 0, ended.said
    return job, time.monotonic() - began


def verdict(job: Job, whole: Job, ended: Ended) -> str:
    """Say what became of a job that was harmed and then given the same command again."""
    if ended.status == 0 and job.results() == whole.results():
        return SAME
    return REFUSED if ended.is_clear else LOST


def truncate(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(path: Path) -> None:
    """Remove a file."""
    path.unlink()


HARMS: dict[str, Callable[[Path], None]] = {"truncated": truncate, "one bit flipped": flip_a_bit, "deleted": delete}


def files_of(run: Path) -> list[Path]:
    """Return every file of a run that can be harmed."""
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock" and path.stat().st_size)
