"""All faults, with a table: `make faults` (about half an hour on two cores)."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.harness import HARMS, LOST, REFUSED, ROOT, SAME, Job, files_of, undisturbed, verdict

NUM_KILLS = int(os.environ.get("FAULTS_KILLS", "100"))
Outcome = tuple[str, str, str]  # the fault, the verdict, what was said


def killed(whole: Job, seconds: float, folder: Path) -> Iterator[Outcome]:
    """Kill a new job at moments spread over its work, each a little by chance."""
    random.seed(0)
    for number in range(NUM_KILLS):
        job = Job.new(folder / f"kill_{number}")
        job.kill_after((number + random.random()) * seconds / NUM_KILLS)
        ended = job.finish()
        yield "kill -9, a new job each", verdict(job, whole, ended), ended.said


def asked_to_stop(whole: Job, seconds: float, folder: Path) -> Iterator[Outcome]:
    """Stop politely: the text must say how to go on."""
    for name in ("SIGINT", "SIGTERM"):
        for share in (0.1, 0.4, 0.7):
            job = Job.new(folder / f"{name}_{share}")
            stopped = job.kill_after(seconds * share, getattr(signal, name))
            ended = job.finish()
            is_told = stopped.status == 0 or (
                "the same command goes on from there" in stopped.said and "Traceback" not in stopped.said
            )
            yield name, verdict(job, whole, ended) if is_told else LOST, stopped.said


def disk_full(whole: Job, folder: Path) -> Iterator[Outcome]:
    """Let no file grow beyond a size, then give the space back."""
    for limit in (0, 100, 500, 1_000, 3_000, 10_000, 30_000, 100_000, 200_000):
        job = Job.new(folder / f"full_{limit}")
        first = job.finish(file_limit=limit)
        ended = job.finish()
        is_clear = first.status == 0 or first.is_clear
        yield "no room for a file", verdict(job, whole, ended) if is_clear else LOST, first.said


def damaged(whole: Job, folder: Path) -> Iterator[Outcome]:
    """Harm each file of a finished run in each way."""
    for place, path in enumerate(files_of(whole.run)):
        for number, (name, harm) in enumerate(HARMS.items()):
            job = whole.copy(folder / f"harm_{place}_{number}")
            harm(job.run / path.relative_to(whole.run))
            ended = job.finish()
            yield f"a file {name}", verdict(job, whole, ended), f"{path.relative_to(whole.run)}: {ended.said}"


def two_writers(whole: Job, seconds: float, folder: Path) -> Iterator[Outcome]:
    """Start the job while it runs already, then kill the owner and start it again."""
    job = Job.new(folder / "two")
    owner = job.start_work()
    time.sleep(seconds * 0.2)
    owner.send_signal(signal.SIGSTOP)
    second = job.finish()
    named = f"is being written by process {owner.pid}" in second.said
    owner.kill()
    owner.wait()
    yield "a second process on the run", REFUSED if second.is_clear and named else LOST, second.said
    ended = job.finish()
    yield "the lock of a killed process", verdict(job, whole, ended), ended.said


def worker_killed(whole: Job, seconds: float, folder: Path) -> Iterator[Outcome]:
    """Kill a data worker, as the system does when memory runs out."""
    job = Job.new(folder / "worker", extra=("--set", "machine.num_workers=1"))
    process = job.start()
    deadline, hit = time.monotonic() + 3 * seconds, False
    while time.monotonic() < deadline and process.poll() is None and not hit:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        hit = bool(children.stdout.split()) and (job.run / "net").exists()
        if hit:
            subprocess.run(["kill", "-9", *children.stdout.split()], check=False)
        time.sleep(0.02)
    said = job.ended(process).said
    ended = job.finish()
    is_clear = hit and "error: " in said and "Traceback" not in said
    yield "a data worker killed", verdict(job, whole, ended) if is_clear else LOST, said


def older_run(whole: Job, folder: Path) -> Iterator[Outcome]:
    """Take away what older versions did not keep."""
    job = whole.copy(folder / "older")
    for path in files_of(job.run):
        if path.name in ("checksums.json", "times.json", "report.html"):
            path.unlink()
    ended = job.finish()
    yield "a run of an older version", verdict(job, whole, ended), ended.said


def clock_set_back(whole: Job, folder: Path) -> Iterator[Outcome]:
    """Let all that is there come from the future."""
    job = whole.copy(folder / "future")
    for path in (*files_of(job.run), *(folder / "future" / "input").rglob("*.npy")):
        subprocess.run(["touch", "-d", "2 years", str(path)], check=True)
    ended = job.finish()
    yield "the clock set back", verdict(job, whole, ended), ended.said


def main() -> None:
    """Run everything, print the table, and end with status 1 if anything was lost."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole, seconds = undisturbed(folder / "whole")
        counts: dict[str, Counter[str]] = {}
        for outcomes in (
            two_writers(whole, seconds, folder),
            worker_killed(whole, seconds, folder),
            older_run(whole, folder),
            clock_set_back(whole, folder),
            asked_to_stop(whole, seconds, folder),
            disk_full(whole, folder),
            damaged(whole, folder),
            killed(whole, seconds, folder),
        ):
            for fault, found, said in outcomes:
                counts.setdefault(fault, Counter())[found] += 1
                if found == LOST:
                    print(f"LOST: {fault}:\n{said}", file=sys.stderr, flush=True)
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
    print(f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, an undisturbed job takes {seconds:.1f} s\n")
    print(f"| fault | times | {SAME} | {REFUSED} | {LOST} |\n|---|---|---|---|---|")
    for fault, found in counts.items():
        print(f"| {fault} | {found.total()} | {found[SAME]} | {found[REFUSED]} | {found[LOST]} |")
    sys.exit(any(found[LOST] for found in counts.values()))


if __name__ == "__main__":
    main()
