"""The time that training steps wait for their data."""

from pathlib import Path

import numpy as np
import torch
from timing import ratio, time_alternately

from pipeline.config import MachineConfig
from pipeline.config_files import CONFIGS, load_config
from pipeline.learning.dataset import TrainLoader
from pipeline.learning.device import set_up_machine
from pipeline.learning.train import Trainer, make_loader
from pipeline.task import CIFAR10

NUM_IMAGES, NUM_STEPS, NUM_ROUNDS = 5120, 4, 7


def main() -> None:
    """Print the share of data loading in the training steps of two configs."""
    machine = set_up_machine(MachineConfig())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *CIFAR10.image_shape), np.uint8)
    labels = rng.integers(CIFAR10.num_classes, size=NUM_IMAGES)
    for config in ("cpu.yaml", "quick.yaml"):
        (member,) = load_config(CONFIGS / Path(config)).members.values()
        batch_size = member.train.batch_size
        trainer = Trainer(member, CIFAR10, machine)
        trainer.init_from_data(images, seed=0)
        trainer.start_phase(trainer.phase(member.train.epochs - 1))
        loader = make_loader(member, images, labels, seed=0)
        ready = torch.from_numpy(images[:batch_size]), torch.from_numpy(labels[:batch_size])

        def with_loader(loader: TrainLoader = loader, trainer: Trainer = trainer) -> None:
            for number, batch in enumerate(loader.epoch(0)):
                if number == NUM_STEPS:
                    break
                trainer.step(batch, 0.01, "bench")

        def without_loader(ready: tuple[torch.Tensor, torch.Tensor] = ready, trainer: Trainer = trainer) -> None:
            for _ in range(NUM_STEPS):
                trainer.step(ready, 0.01, "bench")

        def loader_only(loader: TrainLoader = loader) -> None:
            for number, _ in enumerate(loader.epoch(0)):
                if number == NUM_STEPS:
                    break

        seconds = time_alternately({"loader": with_loader, "ready": without_loader, "data": loader_only}, NUM_ROUNDS)
        speed = NUM_STEPS * batch_size / min(seconds["data"])
        wait = ratio(seconds, "loader", "ready")
        print(f"{config}, {CIFAR10.image_size} pixels: steps with the loader / with a ready tensor: {wait}")
        print(f"{config}: one core augments and collates {speed:,.0f} images/s")


if __name__ == "__main__":
    main()
