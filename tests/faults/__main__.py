"""All faults, with a table: `make faults` (22 minutes on two cores)."""

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
    HARMS,
    LOST,
    REFUSED,
    ROOT,
    SAME,
    Job,
    files_of,
    undisturbed,
    verdict,
    without_privileges,
)

NUM_KILLS = int(os.environ.get("FAULTS_KILLS", "100"))
Outcome = tuple[str, str, str]  # the fault, the verdict, what was said
Fault = Callable[[Path], list[Outcome]]  # breaks one job, in a folder of its own


def all_faults(whole: Job, seconds: float) -> Iterator[Fault]:
    """Yield every fault that is tried, with what it takes to try it."""
    yield partial(two_writers, whole, seconds)
    yield partial(worker_killed, whole, seconds)
    yield partial(older_run, whole)
    yield partial(clock_set_back, whole)
    for is_finished in (True, False):
        yield partial(read_only, whole, seconds, is_finished)
    for name in ("SIGINT", "SIGTERM"):
        for share in (0.1, 0.4, 0.7):
            yield partial(asked_to_stop, whole, seconds * share, name)
    for limit in sizes_to_fail_at(whole):
        yield partial(disk_full, whole, limit)
    for path in files_of(whole.run):
        for harm in HARMS:
            yield partial(damaged, whole, path.relative_to(whole.run), harm)
    for harm in HARMS:
        yield partial(damaged_in_progress, whole, seconds, harm)
    random.seed(0)
    for number in range(NUM_KILLS):
        yield partial(killed, whole, (number + random.random()) * seconds / NUM_KILLS)


def killed(whole: Job, seconds: float, folder: Path) -> list[Outcome]:
    """Kill a new job so long after its work began."""
    job = Job.new(folder)
    job.kill_after(seconds)
    ended = job.finish()
    return [("kill -9, a new job each", verdict(job, whole, ended), ended.said)]


def asked_to_stop(whole: Job, seconds: float, name: str, folder: Path) -> list[Outcome]:
    """Stop politely: the text must say how to go on."""
    job = Job.new(folder)
    stopped = job.kill_after(seconds, getattr(signal, name))
    ended = job.finish()
    # A signal may come when all is done and Python is about to end.
    words = ("the same command goes on from there", "report: submissions")
    is_told = "Traceback" not in stopped.said and any(text in stopped.said for text in words)
    return [(name, verdict(job, whole, ended) if is_told else LOST, stopped.said)]


def sizes_to_fail_at(whole: Job) -> list[int]:
    """Return limits of which each stops the write of another file, from the smallest to the images."""
    files = [*files_of(whole.run), *(whole.folder / "input" / ".cache").rglob("*.npy")]
    return sorted({0, *(path.stat().st_size - 1 for path in files)})


def disk_full(whole: Job, limit: int, folder: Path) -> list[Outcome]:
    """Let no file grow beyond a size, then give the space back."""
    job = Job.new(folder)
    first = job.finish(file_limit=limit)
    ended = job.finish()
    is_clear = first.status == 0 or first.is_clear
    return [("no room for a file", verdict(job, whole, ended) if is_clear else LOST, first.said)]


def read_only(whole: Job, seconds: float, is_finished: bool, folder: Path) -> list[Outcome]:
    """Take away the right to write into a run's folder, then give it back."""
    job = whole.copy(folder) if is_finished else Job.new(folder)
    if not is_finished:
        job.kill_after(seconds / 2)
    (job.run / "submission.csv").unlink(missing_ok=True)
    folders = [job.run, *(path for path in job.run.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    first = job.finish(before=without_privileges)
    for each in folders:
        each.chmod(0o755)
    ended = job.finish()
    return [("a run's folder read-only", verdict(job, whole, ended) if first.is_clear else LOST, first.said)]


def damaged(whole: Job, name: Path, harm: str, folder: Path) -> list[Outcome]:
    """Harm a file of a finished run."""
    job = whole.copy(folder)
    HARMS[harm](job.run / name)
    ended = job.finish()
    return [(f"a file {harm}", verdict(job, whole, ended), f"{name}: {ended.said}")]


def damaged_in_progress(whole: Job, seconds: float, harm: str, folder: Path) -> list[Outcome]:
    """Harm the checkpoint of a fold that is being trained."""
    job, found = Job.new(folder), list[Path]()
    process = job.start_work()
    deadline = time.monotonic() + 3 * seconds
    while not found and process.poll() is None and time.monotonic() < deadline:
        found = list(job.run.rglob("checkpoint.safetensors"))
        time.sleep(0.002)
    process.kill()
    job.ended(process)
    found = list(job.run.rglob("checkpoint.safetensors"))
    if not found:
        return [(f"a checkpoint {harm}", LOST, "no checkpoint was seen")]
    HARMS[harm](found[0])
    ended = job.finish()
    is_told = harm == "deleted" or "is damaged" in ended.said
    return [(f"a checkpoint {harm}", verdict(job, whole, ended) if is_told else LOST, ended.said)]


def two_writers(whole: Job, seconds: float, folder: Path) -> list[Outcome]:
    """Start the job while it runs already, then kill the owner and start it again."""
    job = Job.new(folder)
    owner = job.start_work()
    time.sleep(seconds * 0.2)
    owner.send_signal(signal.SIGSTOP)
    second = job.finish()
    named = f"is being written by process {owner.pid}" in second.said
    owner.kill()
    owner.wait()
    ended = job.finish()
    return [
        ("a second process on the run", REFUSED if second.is_clear and named else LOST, second.said),
        ("the lock of a killed process", verdict(job, whole, ended), ended.said),
    ]


def worker_killed(whole: Job, seconds: float, folder: Path) -> list[Outcome]:
    """Kill a data worker, as the system does when memory runs out."""
    job = Job.new(folder, extra=("--set", "machine.num_workers=1"))
    process = job.start()
    deadline, hit = time.monotonic() + 3 * seconds + 20, False
    while time.monotonic() < deadline and process.poll() is None and not hit:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        hit = bool(children.stdout.split()) and (job.run / "net").exists()
        if hit:
            subprocess.run(["kill", "-9", *children.stdout.split()], check=False)
        time.sleep(0.02)
    said = job.ended(process).said
    ended = job.finish()
    is_clear = hit and "error: " in said and "Traceback" not in said
    return [("a data worker killed", verdict(job, whole, ended) if is_clear else LOST, said)]


def older_run(whole: Job, folder: Path) -> list[Outcome]:
    """Take away what older versions did not keep."""
    job = whole.copy(folder)
    for path in files_of(job.run):
        if path.name in ("checksums.json", "times.json", "report.html"):
            path.unlink()
    ended = job.finish()
    return [("a run of an older version", verdict(job, whole, ended), ended.said)]


def clock_set_back(whole: Job, folder: Path) -> list[Outcome]:
    """Let all that is there come from the future."""
    job = whole.copy(folder)
    for path in (*files_of(job.run), *(folder / "input").rglob("*.npy")):
        subprocess.run(["touch", "-d", "2 years", str(path)], check=True)
    ended = job.finish()
    return [("the clock set back", verdict(job, whole, ended), ended.said)]


def try_one(fault: Fault, folder: Path) -> list[Outcome]:
    """Try a fault; what the harness itself trips over counts as lost."""
    try:
        return fault(folder)
    except Exception as error:
        return [(fault.func.__name__, LOST, f"{type(error).__name__}: {error}")]  # type: ignore[attr-defined]


def main() -> None:
    """Run everything, one job on each core, print the table, and end with status 1 if anything was lost."""
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(os.cpu_count()) as pool:
        folder = Path(temporary)
        whole, seconds = undisturbed(folder / "whole")
        faults = list(all_faults(whole, seconds))
        folders = [folder / f"fault_{number}" for number in range(len(faults))]
        counts: dict[str, Counter[str]] = {}
        for done, outcomes in enumerate(pool.map(try_one, faults, folders), start=1):
            for fault, found, said in outcomes:
                counts.setdefault(fault, Counter())[found] += 1
                if found == LOST:
                    print(f"LOST: {fault}:\n{said}", file=sys.stderr, flush=True)
            print(f"\r{done} of {len(faults)}", end="", file=sys.stderr, flush=True)
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, commit {commit}, an undisturbed job works for {seconds:.1f} s\n")
    print(f"| fault | times | {SAME} | {REFUSED} | {LOST} |\n|---|---|---|---|---|")
    for fault, found in counts.items():
        print(f"| {fault} | {found.total()} | {found[SAME]} | {found[REFUSED]} | {found[LOST]} |")
    sys.exit(any(found[LOST] for found in counts.values()))


if __name__ == "__main__":
    main()
