"""The training of finetune.yaml against plain eager float32 at the full size."""

import statistics

import numpy as np
import torch
import torch.nn.functional as F
from timing import ratio, time_alternately

from pipeline.config import MachineConfig
from pipeline.config_files import CONFIGS, load_config
from pipeline.learning.device import set_up_machine
from pipeline.learning.models import create_model, input_spec
from pipeline.learning.train import Trainer
from pipeline.member_config import MemberConfig
from pipeline.task import CIFAR10

NUM_IMAGES, NUM_ROUNDS = 512, 5
CPU = torch.device("cpu")


class Plain:
    """What users write: batches of 128 in float32, and AdamW."""

    def __init__(self, member: MemberConfig) -> None:
        model, self._spec = create_model(member.model, CIFAR10)
        self._model = model.train().to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4)

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on all images once."""
        for rows in torch.arange(len(images)).split(128):
            loss = F.cross_entropy(self._model(self._spec.to_input(images[rows], CPU)), labels[rows])
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()


def main() -> None:
    """Print the ratios, with random weights: they do not change the time."""
    (member,) = load_config(CONFIGS / "finetune.yaml").members.values()
    member = member.model_copy(update={"model": member.model.model_copy(update={"pretrained": False, "stem": "keep"})})
    machine = set_up_machine(MachineConfig(device="cpu"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *CIFAR10.image_shape), np.uint8)
    batch = torch.from_numpy(images), torch.from_numpy(rng.integers(CIFAR10.num_classes, size=NUM_IMAGES))
    plain, trainer = Plain(member), Trainer(member, CIFAR10, machine)
    size = input_spec(member.model, CIFAR10).size
    phases = member.train.phases(size)

    def train(phase: object) -> None:
        trainer.start_phase(phase)
        for rows in torch.arange(NUM_IMAGES).split(member.train.batch_size):
            trainer.step((batch[0][rows], batch[1][rows]), 1e-3, "bench")

    seconds = time_alternately(
        {"plain": lambda: plain.train(*batch)}
        | {f"{phase.image_size} pixels": lambda phase=phase: train(phase) for phase in phases},
        NUM_ROUNDS,
    )
    precision = "bf16 for dense convolutions" if machine.autocast else "float32"
    print(f"plain training at {size} pixels: {NUM_IMAGES / statistics.median(seconds['plain']):.0f} images/s")
    for name in [*seconds][1:]:
        print(f"training at {name}, {precision}: {ratio(seconds, 'plain', name)} times plain")
    whole = [
        sum(times)
        for times in zip(
            *([t * n for t in seconds[f"{phase.image_size} pixels"]] for phase, n in phases.items()), strict=True
        )
    ]
    seconds |= {"config": whole, "plain epochs": [t * member.train.epochs for t in seconds["plain"]]}
    print(f"all epochs of finetune.yaml: {ratio(seconds, 'plain epochs', 'config')} times plain")


if __name__ == "__main__":
    main()
