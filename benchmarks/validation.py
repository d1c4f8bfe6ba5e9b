"""What the validation after each epoch costs, relative to the training of all folds and refits of a config."""

from collections import Counter

import numpy as np
import torch
from timing import time_alternately

from pipeline.config import Config, MachineConfig
from pipeline.config_files import CONFIGS, load_config
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.train import Trainer
from pipeline.learning.validation import MAX_IMAGES, Validation
from pipeline.task import CIFAR10

NUM_TRAIN, NUM_STEPS, NUM_ROUNDS = 50_000, 4, 7


def main() -> None:
    """Print the ratio for the two configs that train from scratch on a CPU."""
    machine = set_up_machine(MachineConfig())
    for name in ("quick.yaml", "cpu.yaml"):
        print(
            f"{name}: validation after every epoch / training of the job: {share(load_config(CONFIGS / name), machine)}"
        )


def share(config: Config, machine: Machine) -> str:
    """Return the ratio, median and range over the rounds; steps wait for no data."""
    (member,) = config.members.values()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (MAX_IMAGES, *CIFAR10.image_shape), np.uint8)
    labels = rng.integers(CIFAR10.num_classes, size=MAX_IMAGES)
    batch_size, num_epochs = member.train.batch_size, member.num_epochs
    trainer = Trainer(member, CIFAR10, machine)
    trainer.init_from_data(images, seed=0)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    validation = Validation(member, CIFAR10, images, labels, machine)
    batch = torch.from_numpy(images[:batch_size]), torch.from_numpy(labels[:batch_size])
    phases = [trainer.phase(epoch) for epoch in range(num_epochs)]

    def train(epoch: int) -> None:
        trainer.start_phase(phases[epoch])
        for _ in range(NUM_STEPS):
            trainer.step(batch, 0.01, "bench")

    sizes = {phase.image_size: epoch for epoch, phase in enumerate(phases)}
    timed = {str(size): lambda epoch=epoch: train(epoch) for size, epoch in sizes.items()}
    seconds = time_alternately({"validation": lambda: validation(weights), **timed}, NUM_ROUNDS)
    num_folds = len(config.folds.trained)
    num_images = num_folds * NUM_TRAIN * (1 - 1 / config.folds.num_folds) + config.refit.models * NUM_TRAIN
    epochs_of_size = Counter(phase.image_size for phase in phases)
    per_image = np.sum(
        [n * np.array(seconds[str(size)]) / NUM_STEPS / batch_size for size, n in epochs_of_size.items()], 0
    )
    ratios = num_folds * num_epochs * np.array(seconds["validation"]) / (num_images * per_image)
    return f"{np.median(ratios):.2%} ({ratios.min():.2%} to {ratios.max():.2%}, n = {NUM_ROUNDS})"


if __name__ == "__main__":
    main()
