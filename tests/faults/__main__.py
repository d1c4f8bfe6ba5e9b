"""Inject every fault and print a table: `make faults` (20 minutes on two cores)."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.faults.harness import (
    CORRUPTIONS,
    LOST,
    REFUSED,
    ROOT,
    SAME,
    Job,
    classify,
    files_of,
    run_reference,
    without_privileges,
)
from tests.faults.processes import process_faults

NUM_KILLS = int(os.environ.get("FAULTS_KILLS", "100"))
Result = tuple[str, str, str]  # fault, outcome, output of the job
Fault = Callable[[Path], list[Result]]  # injects a fault into a job in a folder


def all_faults(reference: Job, seconds: float) -> Iterator[Fault]:
    """Yield every fault; `seconds` is the duration of the reference job."""
    yield partial(two_writers, reference, seconds)
    yield partial(worker_killed, reference, seconds)
    yield partial(files_missing, reference)
    yield partial(clock_set_back, reference)
    for is_finished in (True, False):
        yield partial(read_only, reference, seconds, is_finished)
    for name in ("SIGINT", "SIGTERM"):
        for share in (0.1, 0.4, 0.7):
            yield partial(interrupted, reference, seconds * share, name)
    for limit in failing_sizes(reference):
        yield partial(disk_full, reference, limit)
    for path in files_of(reference.run):
        for name in CORRUPTIONS:
            yield partial(corrupted_file, reference, path.relative_to(reference.run), name)
    for name in CORRUPTIONS:
        yield partial(corrupted_checkpoint, reference, seconds, name)
    random.seed(0)
    for number in range(NUM_KILLS):
        yield partial(killed, reference, (number + random.random()) * seconds / NUM_KILLS)


def killed(reference: Job, seconds: float, folder: Path) -> list[Result]:
    """Kill a new job some seconds after it has locked the run."""
    job = Job.new(folder)
    job.kill_after(seconds)
    finished = job.finish()
    return [("kill -9, a new job each", classify(job, reference, finished), finished.output)]


def interrupted(reference: Job, seconds: float, name: str, folder: Path) -> list[Result]:
    """Interrupt a new job; its output must explain how to resume it."""
    job = Job.new(folder)
    first = job.kill_after(seconds, getattr(signal, name))
    finished = job.finish()
    # A signal may arrive after the last step, while Python shuts down.
    expected = ("rerun the same command to resume", "report: submissions")
    is_explained = "Traceback" not in first.output and any(text in first.output for text in expected)
    return [(name, classify(job, reference, finished) if is_explained else LOST, first.output)]


def failing_sizes(reference: Job) -> list[int]:
    """Return file size limits in bytes, each too small for another file, from the smallest to the images."""
    files = [*files_of(reference.run), *(reference.folder / "input" / ".cache").rglob("*.npy")]
    return sorted({0, *(path.stat().st_size - 1 for path in files)})


def disk_full(reference: Job, limit: int, folder: Path) -> list[Result]:
    """Limit the size of files, then remove the limit."""
    job = Job.new(folder)
    first = job.finish(file_limit=limit)
    finished = job.finish()
    is_clear = first.status == 0 or first.has_clear_error
    return [("disk full", classify(job, reference, finished) if is_clear else LOST, first.output)]


def read_only(reference: Job, seconds: float, is_finished: bool, folder: Path) -> list[Result]:
    """Make a run's folder read-only, then writable again."""
    job = reference.copy(folder) if is_finished else Job.new(folder)
    if not is_finished:
        job.kill_after(seconds / 2)
    (job.run / "submission.csv").unlink(missing_ok=True)
    folders = [job.run, *(path for path in job.run.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    first = job.finish(before=without_privileges)
    for each in folders:
        each.chmod(0o755)
    finished = job.finish()
    outcome = classify(job, reference, finished) if first.has_clear_error else LOST
    return [("read-only run folder", outcome, first.output)]


def corrupted_file(reference: Job, name: Path, corruption: str, folder: Path) -> list[Result]:
    """Corrupt a file of a finished run."""
    job = reference.copy(folder)
    CORRUPTIONS[corruption](job.run / name)
    finished = job.finish()
    return [(f"file {corruption}", classify(job, reference, finished), f"{name}: {finished.output}")]


def corrupted_checkpoint(reference: Job, seconds: float, corruption: str, folder: Path) -> list[Result]:
    """Corrupt the checkpoint of a fold in training."""
    job, checkpoints = Job.new(folder), list[Path]()
    process = job.start_work()
    deadline = time.monotonic() + 3 * seconds
    while not checkpoints and process.poll() is None and time.monotonic() < deadline:
        checkpoints = list(job.run.rglob("checkpoint.safetensors"))
        time.sleep(0.002)
    process.kill()
    job.wait(process)
    checkpoints = list(job.run.rglob("checkpoint.safetensors"))
    if not checkpoints:
        return [(f"checkpoint {corruption}", LOST, "there was no checkpoint to corrupt")]
    CORRUPTIONS[corruption](checkpoints[0])
    finished = job.finish()
    is_reported = corruption == "deleted" or "is corrupted" in finished.output
    return [(f"checkpoint {corruption}", classify(job, reference, finished) if is_reported else LOST, finished.output)]


def two_writers(reference: Job, seconds: float, folder: Path) -> list[Result]:
    """Start the job a second time while it is running, then kill the first process and rerun it."""
    job = Job.new(folder)
    owner = job.start_work()
    time.sleep(seconds * 0.2)
    owner.send_signal(signal.SIGSTOP)
    second = job.finish()
    is_named = f"is in use by process {owner.pid}" in second.output
    owner.kill()
    owner.wait()
    finished = job.finish()
    return [
        ("second process on the run", REFUSED if second.has_clear_error and is_named else LOST, second.output),
        ("lock of a killed process", classify(job, reference, finished), finished.output),
    ]


def worker_killed(reference: Job, seconds: float, folder: Path) -> list[Result]:
    """Kill a DataLoader worker, as the kernel does when memory runs out."""
    job = Job.new(folder, extra=("--set", "machine.num_workers=1"))
    process = job.start()
    deadline, is_killed = time.monotonic() + 3 * seconds + 20, False
    while time.monotonic() < deadline and process.poll() is None and not is_killed:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        is_killed = bool(children.stdout.split()) and (job.run / "airbench").exists()
        if is_killed:
            subprocess.run(["kill", "-9", *children.stdout.split()], check=False)
        time.sleep(0.02)
    output = job.wait(process).output
    finished = job.finish()
    is_clear = is_killed and "error: " in output and "Traceback" not in output
    return [("data worker killed", classify(job, reference, finished) if is_clear else LOST, output)]


def files_missing(reference: Job, folder: Path) -> list[Result]:
    """Delete the files that a run can do without."""
    job = reference.copy(folder)
    for path in files_of(job.run):
        if path.name in ("checksums.json", "times.json", "report.html"):
            path.unlink()
    finished = job.finish()
    return [("optional files missing", classify(job, reference, finished), finished.output)]


def clock_set_back(reference: Job, folder: Path) -> list[Result]:
    """Set all modification times to the future."""
    job = reference.copy(folder)
    for path in (*files_of(job.run), *(folder / "input").rglob("*.npy")):
        subprocess.run(["touch", "-d", "2 years", str(path)], check=True)
    finished = job.finish()
    return [("clock set back", classify(job, reference, finished), finished.output)]


def inject(fault: Fault, folder: Path) -> list[Result]:
    """Inject a fault; an exception in the harness itself counts as lost."""
    try:
        return fault(folder)
    except Exception as error:
        return [(fault.func.__name__, LOST, f"{type(error).__name__}: {error}")]  # type: ignore[attr-defined]


def main() -> None:
    """Inject all faults, one job per core; print the table; exit with status 1 if a result was lost."""
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(os.cpu_count()) as pool:
        folder = Path(temporary)
        reference, seconds = run_reference(folder / "reference")
        faults = [*process_faults(reference, folder), *all_faults(reference, seconds)]
        folders = [folder / f"fault_{number}" for number in range(len(faults))]
        counts: dict[str, Counter[str]] = {}
        for done, results in enumerate(pool.map(inject, faults, folders), start=1):
            for fault, outcome, output in results:
                counts.setdefault(fault, Counter())[outcome] += 1
                if outcome == LOST:
                    print(f"LOST: {fault}:\n{output}", file=sys.stderr, flush=True)
            print(f"\r{done} of {len(faults)}", end="", file=sys.stderr, flush=True)
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, commit {commit}, duration of a job without a fault {seconds:.1f} s\n")
    print(f"| fault | times | {SAME} | {REFUSED} | {LOST} |\n|---|---|---|---|---|")
    for fault, outcomes in counts.items():
        print(f"| {fault} | {outcomes.total()} | {outcomes[SAME]} | {outcomes[REFUSED]} | {outcomes[LOST]} |")
    sys.exit(any(outcomes[LOST] for outcomes in counts.values()))


if __name__ == "__main__":
    main()
