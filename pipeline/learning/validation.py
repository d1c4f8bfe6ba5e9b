"""Weights -> loss and accuracy on validation images, between the epochs of a training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.device import Machine
from pipeline.learning.predict import predict
from pipeline.learning.seeding import derive_seed
from pipeline.learning.train import build_model
from pipeline.member_config import MemberConfig
from pipeline.task import Task

MAX_IMAGES = 5000  # the standard error of an accuracy is then at most 0.7 points, and quick.yaml takes 2 % longer


@dataclass(frozen=True)
class Validation:
    """Evaluates a member's weights on uint8 images [N, height, width, 3] with labels [N], without TTA."""

    member: MemberConfig
    task: Task
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    machine: Machine

    def __call__(self, weights: Mapping[str, Tensor]) -> tuple[float, float]:
        """Return the loss in nats, without label smoothing, and the accuracy."""
        model, spec = build_model(self.member, self.task, self.machine.device, weights)
        # Each epoch has a new model, and compiling it would take longer than what it predicts.
        logits = predict(model, spec, self.images, "none", replace(self.machine, compile=False))
        loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(self.labels)).item()
        return loss, float((logits.argmax(1) == self.labels).mean())


def sample_rows(num_images: int, seed: int) -> NDArray[np.int64]:
    """Return sorted rows: all, or MAX_IMAGES at random."""
    rows = np.random.default_rng(derive_seed(seed, "validation")).permutation(num_images)[:MAX_IMAGES]
    return np.sort(rows)
