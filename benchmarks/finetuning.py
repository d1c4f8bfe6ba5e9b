"""Fine-tuning and prediction of finetune.yaml's model against plain eager float32 at the same size."""

import statistics

import numpy as np
import torch
import torch.nn.functional as F
from timing import ratio, time_alternately

from pipeline.config import MachineConfig, MemberConfig
from pipeline.config_files import CONFIGS, load_config
from pipeline.learning.device import set_up_machine
from pipeline.learning.models import create_model
from pipeline.learning.predict import for_inference, predict_logits, tta_views
from pipeline.learning.train import Trainer
from pipeline.task import CIFAR10

NUM_IMAGES, NUM_STEPS, NUM_ROUNDS = 512, 4, 5
CPU = torch.device("cpu")


class Plain:
    """What users write: batches of 128 in float32, AdamW, and a prediction without gradients."""

    def __init__(self, member: MemberConfig) -> None:
        self.model, self._spec = create_model(member.model, CIFAR10)
        self.model = self.model.to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on all images once."""
        self.model.train()
        for rows in torch.arange(len(images)).split(128):
            loss = F.cross_entropy(self.model(self._spec.to_input(images[rows], CPU)), labels[rows])
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> None:
        """Predict all images."""
        self.model.eval()
        for batch in images.split(128):
            self.model(self._spec.to_input(batch, CPU))


def main() -> None:
    """Print the ratios, with random weights: they do not change the time."""
    (member,) = load_config(CONFIGS / "finetune.yaml").members.values()
    member = member.model_copy(update={"model": member.model.model_copy(update={"pretrained": False, "stem": "keep"})})
    machine = set_up_machine(MachineConfig(device="cpu"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *CIFAR10.image_shape), np.uint8)
    batch = torch.from_numpy(images), torch.from_numpy(rng.integers(CIFAR10.num_classes, size=NUM_IMAGES))
    plain, trainer = Plain(member), Trainer(member, CIFAR10, machine)
    model, spec = create_model(member.model, CIFAR10)
    fused = for_inference(model, machine)
    phases = member.train.phases(spec.size)

    def train(phase: object) -> None:
        trainer.start_phase(phase)
        for rows in torch.arange(NUM_IMAGES).split(member.train.batch_size):
            trainer.step((batch[0][rows], batch[1][rows]), 1e-3, "bench")

    seconds = time_alternately(
        {"plain": lambda: plain.train(*batch)}
        | {f"{phase.image_size} pixels": lambda phase=phase: train(phase) for phase in phases}
        | {
            "plain prediction": lambda: plain.predict(batch[0]),
            "prediction": lambda: predict_logits(fused, spec, images, tta_views("none"), machine),
        },
        NUM_ROUNDS,
    )
    precision = "bf16 for dense convolutions" if machine.autocast else "float32"
    print(f"plain training at {spec.size} pixels: {NUM_IMAGES / statistics.median(seconds['plain']):.0f} images/s")
    for name in seconds:
        if name.endswith("pixels"):
            print(f"training at {name}, {precision}: {ratio(seconds, 'plain', name)} times plain")
    whole = [
        sum(times)
        for times in zip(
            *([t * n for t in seconds[f"{phase.image_size} pixels"]] for phase, n in phases.items()), strict=True
        )
    ]
    seconds |= {"config": whole, "plain epochs": [t * member.train.epochs for t in seconds["plain"]]}
    print(f"all epochs of finetune.yaml: {ratio(seconds, 'plain epochs', 'config')} times plain")
    print(f"prediction: {ratio(seconds, 'plain prediction', 'prediction')} times plain")


if __name__ == "__main__":
    main()
