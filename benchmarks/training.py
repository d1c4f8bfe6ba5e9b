"""How long a training waits for its data."""

from pathlib import Path

import numpy as np
import torch
from timing import in_turn, ratio

from pipeline.config import MachineConfig
from pipeline.learning.dataset import TrainLoader
from pipeline.learning.device import set_up_machine
from pipeline.learning.train import Trainer, make_loader
from pipeline.config_files import CONFIGS, load_config

NUM_STEPS, ROUNDS = 4, 7


def main() -> None:
    """Print the share of data work in the steps of a recipe."""
    machine = set_up_machine(MachineConfig())
    rng = np.random.default_rng(0)
    images, classes = rng.integers(0, 256, (5120, 32, 32, 3), np.uint8), rng.integers(10, size=5120)
    for recipe in ("cpu.yaml", "quick.yaml"):
        (member,) = load_config(CONFIGS / Path(recipe)).members.values()
        batch_size = member.train.batch_size
        trainer = Trainer(member, machine)
        trainer.whiten(images, seed=0)
        trainer.begin_epoch(member.train.epochs - 1)
        loader = make_loader(member, images, classes, seed=0)
        ready = torch.from_numpy(images[:batch_size]), torch.from_numpy(classes[:batch_size])

        def with_loader(loader: TrainLoader = loader, trainer: Trainer = trainer) -> None:
            for number, batch in enumerate(loader.epoch(0)):
                if number == NUM_STEPS:
                    break
                trainer.step(batch, 0.01, "bench")

        def ready_made(ready: tuple[torch.Tensor, torch.Tensor] = ready, trainer: Trainer = trainer) -> None:
            for _ in range(NUM_STEPS):
                trainer.step(ready, 0.01, "bench")

        def data_alone(loader: TrainLoader = loader) -> None:
            for number, _ in enumerate(loader.epoch(0)):
                if number == NUM_STEPS:
                    break

        seconds = in_turn({"loader": with_loader, "ready": ready_made, "data": data_alone}, ROUNDS)
        speed = NUM_STEPS * batch_size / min(seconds["data"])
        print(f"{recipe}, 32 pixels: steps with the loader / with a ready tensor: {ratio(seconds, 'loader', 'ready')}")
        print(f"{recipe}: one core augments and collates {speed:,.0f} images/s")


if __name__ == "__main__":
    main()
