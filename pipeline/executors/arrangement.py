"""How many jobs run side by side on this machine, and with how many threads each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch

from pipeline.config import MachineConfig
from pipeline.cores import available_cores
from pipeline.learning.device import Machine
from pipeline.memory import available_memory
from pipeline.progress import log
from pipeline.results import Arrangement

MIN_FLOPS = 1e12  # of all jobs; fewer take less time than processes to start
# Of the time of a training step with one thread, what more threads do not shorten: 0.05 to 0.13 (docs/experiments.md).
SERIAL_SHARE = 0.1
MAX_JOBS = 60  # more than what Windows can wait for


@dataclass(frozen=True)
class Slots:
    """A device for each job that may run at the same time, and the cores of this machine."""

    devices: tuple[str, ...]
    num_cores: int
    max_threads: int | None = None
    """Of all jobs together; None: as many as they have."""

    def for_jobs(self, num_jobs: int) -> "Slots":
        """Return no more slots than there are jobs, and at least one."""
        return replace(self, devices=self.devices[: max(1, num_jobs)])


def device_names(machine: Machine) -> tuple[str, ...]:
    """Return the devices that a machine's jobs can be distributed over."""
    if machine.device.type != "cuda" or machine.device.index is not None:
        return (str(machine.device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def find_slots(config: MachineConfig, machine: Machine, *, job_memory: int, total_flops: float) -> Slots:
    """Return the configured number of slots; else one per GPU, on a CPU as many as there are cores and memory for.

    `job_memory` is what a job takes, in bytes; `total_flops` are those of all jobs: if they are few, one slot is best.
    """
    devices, num_cores = device_names(machine), available_cores()
    if config.jobs != "auto":
        return Slots(tuple(islice(cycle(devices), config.jobs)), num_cores)
    if machine.device.type != "cpu" or total_flops < MIN_FLOPS:
        return Slots(devices, num_cores)
    num_threads = 1 if config.threads_per_job == "auto" else config.threads_per_job
    num_jobs, free = min(max(1, num_cores // num_threads), MAX_JOBS), available_memory()
    if free is not None and num_jobs > 1 and num_jobs * job_memory > free:
        num_fitting = max(1, free // job_memory)
        log.info(
            "%d of %d jobs side by side: each takes about %.1f GB of memory, and %.1f GB are free",
            num_fitting, num_jobs, job_memory / 1e9, free / 1e9,
        )  # fmt: skip
        num_jobs = num_fitting
    return Slots(devices * num_jobs, num_cores, num_cores)


def arrange(
    names: Sequence[str], recorded: Arrangement, config: MachineConfig, slots: Slots, *, alone: Collection[str] = ()
) -> Arrangement:
    """Return the threads of some jobs and of the prediction: as configured, else as recorded, else all cores are used.

    On a CPU jobs run in rounds, of as many as take the least time in all, and those of the last round share the cores
    that are free. Jobs that run `alone` have all cores.
    """
    prediction = recorded.prediction or max(1, slots.num_cores // len(slots.devices))
    side_by_side = [name for name in names if name not in alone]
    if config.threads_per_job == "auto" and slots.max_threads is not None:
        num_jobs = range(min(len(side_by_side), len(slots.devices)), 0, -1)
        best = min(num_jobs, key=lambda number: _relative_time(len(side_by_side), number, slots.num_cores), default=1)
        slots = slots.for_jobs(best)
    jobs_at_once = _rounds(side_by_side, slots)
    jobs_at_once |= dict.fromkeys([name for name in names if name in alone], 1)
    if config.threads_per_job != "auto":
        prediction = config.threads_per_job
        threads = recorded.training | dict.fromkeys(names, prediction)
    else:
        threads = _share_cores(jobs_at_once, slots) | recorded.training
    return Arrangement(training=threads, jobs_at_once=recorded.jobs_at_once | jobs_at_once, prediction=prediction)


def _relative_time(num_jobs: int, jobs_at_once: int, num_cores: int) -> float:
    """Return an estimate of the time of some jobs, in units of that of one job with one thread."""
    full_rounds, rest = divmod(num_jobs, jobs_at_once)
    rounds = [jobs_at_once] * full_rounds + [rest] * bool(rest)
    return sum(SERIAL_SHARE + (1 - SERIAL_SHARE) / max(1, num_cores // number) for number in rounds)


def _rounds(names: Sequence[str], slots: Slots) -> dict[str, int]:
    """Return how many jobs run at the same time as each, itself included."""
    num_slots = len(slots.devices)
    return {name: min(num_slots, len(names) - index // num_slots * num_slots) for index, name in enumerate(names)}


def _share_cores(jobs_at_once: Mapping[str, int], slots: Slots) -> dict[str, int]:
    """Return the threads of each job; of the jobs of a round, the first get one more if the cores are no multiple."""
    if not slots.devices[0].startswith("cpu"):
        return dict.fromkeys(jobs_at_once, max(1, slots.num_cores // len(slots.devices)))
    threads = {}
    for index, (name, number) in enumerate(jobs_at_once.items()):
        quotient, rest = divmod(max(slots.num_cores, number), number)
        threads[name] = quotient + (index % len(slots.devices) < rest)
    return threads
