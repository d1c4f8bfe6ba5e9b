"""One process with two threads against two processes with one thread each, alone and beside a busy program."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from timing import ratio

from pipeline.config import MachineConfig
from pipeline.config_files import CONFIGS, load_config
from pipeline.learning.device import set_up_machine
from pipeline.learning.train import Trainer
from pipeline.task import CIFAR10

CONFIG_NAMES = ("demo", "quick", "cpu", "finetune")
NUM_ROUNDS, SECONDS, MATRIX_SIZE = 3, 5.0, 1500
CONTEXT = multiprocessing.get_context("spawn")


def train(name: str, num_threads: int, start: Any, speeds: Any) -> None:
    """Train the first member of a config, with random weights, for some seconds; put the images/s."""
    member = next(iter(load_config(CONFIGS / f"{name}.yaml").members.values()))
    model = member.model.model_copy(update={"pretrained": False, "stem": "keep"})
    machine = set_up_machine(MachineConfig(device="cpu", threads_per_job=num_threads))
    trainer = Trainer(member.model_copy(update={"model": model}), CIFAR10, machine)
    rng, batch_size = np.random.default_rng(0), member.train.batch_size
    images = rng.integers(0, 256, (max(batch_size, 500), *CIFAR10.image_shape), np.uint8)
    trainer.init_from_data(images, seed=0)
    trainer.start_phase(trainer.phase(member.train.epochs - 1))
    labels = torch.from_numpy(rng.integers(CIFAR10.num_classes, size=batch_size))
    batch = torch.from_numpy(images[:batch_size]), labels
    trainer.step(batch, 0.0, "warm-up")
    start.wait()
    begin, num_steps = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        trainer.step(batch, 0.0, "bench")
        num_steps += 1
    speeds.put(num_steps * batch_size / (time.perf_counter() - begin))


def images_per_second(name: str, num_processes: int, num_threads: int) -> float:
    """Return the speed of processes that train side by side, all together."""
    start, speeds = CONTEXT.Barrier(num_processes), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=train, args=(name, num_threads, start, speeds)) for _ in range(num_processes)]
    for process in processes:
        process.start()
    total = sum(speeds.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def multiply() -> None:
    """Keep two cores busy with matrix products, until this process is terminated."""
    torch.set_num_threads(2)
    matrix = torch.rand(MATRIX_SIZE, MATRIX_SIZE)
    while True:
        torch.mm(matrix, matrix)


@contextmanager
def busy_program() -> Iterator[None]:
    """Run a program that uses both cores while the block runs."""
    process = CONTEXT.Process(target=multiply)
    process.start()
    try:
        time.sleep(5)
        yield
    finally:
        process.terminate()
        process.join()


def main() -> None:
    """Print the speeds of both and their ratio."""
    for where, program in (("alone", nullcontext()), ("beside a busy program", busy_program())):
        with program:
            for name in CONFIG_NAMES:
                seconds: dict[str, list[float]] = {"one": [], "two": []}
                for _ in range(NUM_ROUNDS):
                    seconds["one"].append(1 / images_per_second(name, 1, 2))
                    seconds["two"].append(1 / images_per_second(name, 2, 1))
                one, two = (1 / min(seconds[key]) for key in ("one", "two"))
                speedup = ratio(seconds, "one", "two")
                print(f"{name}, {where}: one process {one:,.0f} images/s, two {two:,.0f}; ratio {speedup}", flush=True)


if __name__ == "__main__":
    main()
