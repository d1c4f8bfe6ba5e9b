"""One member on one fold: images in, the state after each epoch out. Returns, never saves."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config import MemberConfig
from pipeline.errors import TrainingError
from pipeline.learning.dataset import AugmentedImages, Batch, TrainLoader, normalize, shrink
from pipeline.learning.device import Machine
from pipeline.learning.models import NUM_CLASSES, Airbench, create_model
from pipeline.learning.optim import lr_fraction, make_optimizers, set_learning_rates
from pipeline.learning.seeding import derive_seed
from pipeline.progress import ProgressCallback, no_progress

NUM_WHITENING_IMAGES = 5000


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did: means over its steps, the seconds it took, the rate at its end."""

    epoch: int
    loss: float
    accuracy: float
    lr: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class TrainState:
    """All that a training needs to go on after an epoch.

    There is no random state in it: every epoch, and every batch in it, has a seed of its own.
    """

    history: list[EpochRecord] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_epochs(self) -> int:
        """How many epochs are done."""
        return len(self.history)

    def records(self) -> list[dict[str, float]]:
        """Return the history as plain values."""
        return [asdict(record) for record in self.history]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to predict with: their moving average where the recipe keeps one."""
        kept = _strip_prefix(self.tensors, "ema.")
        return kept or _strip_prefix(self.tensors, "model.")


def build_model(member: MemberConfig, device: torch.device, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build a member's network, with trained weights if given. Raises TrainingError for those of another network."""
    model = create_model(member.model).to(device).to(memory_format=torch.channels_last)
    if weights is not None:
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise TrainingError(
                f"the weights are not of {member.model.name}: {' '.join(str(error).split())[:300]}"
            ) from None
    return model


def make_loader(
    member: MemberConfig, images: NDArray[np.uint8], classes: NDArray[np.int64], *, seed: int, num_workers: int = 0
) -> TrainLoader:
    """Return the batches that a member learns from on a fold, uint8 images [N, 32, 32, 3] with classes [N]."""
    dataset = AugmentedImages(
        images, classes, member.augment, derive_seed(seed, "augment"), alternating_flip=member.alternating_flip
    )
    return TrainLoader(dataset, member.train.batch_size, derive_seed(seed, "batches"), num_workers)


def train_fold(
    member: MemberConfig,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    *,
    seed: int,
    machine: Machine,
    resume: TrainState | None = None,
    on_images: ProgressCallback = no_progress,
) -> Iterator[TrainState]:
    """Train on uint8 images [N, 32, 32, 3] with classes [N] and yield the state after each epoch.

    Weights depend on the arguments alone, so a resumed training ends with the same bytes. `on_images` hears how many
    images went through. Raises TrainingError, naming epoch and step, before a loss that is not finite reaches the
    weights.
    """
    config = member.train
    torch.manual_seed(derive_seed(seed, "weights"))
    trainer = Trainer(member, machine)
    trainer.whiten(images, seed)
    history = []
    if resume is not None and resume.history:
        trainer.load(resume.tensors)
        history = list(resume.history)
    loader = make_loader(member, images, classes, seed=seed, num_workers=machine.num_workers)
    for epoch in range(len(history), config.epochs):
        began = time.perf_counter()
        _seed_global_generators(derive_seed(seed, "epoch", epoch))
        trainer.begin_epoch(epoch)
        num_images, loss_sum, num_right = 0, 0.0, 0
        for index, batch in enumerate(loader.epoch(epoch)):
            step = epoch * len(loader) + index
            fraction = lr_fraction(step, config.epochs * len(loader), config.schedule)
            loss, right = trainer.step(batch, fraction, f"epoch {epoch + 1}, step {index + 1} of {len(loader)}")
            loss_sum, num_right, num_images = loss_sum + loss, num_right + right, num_images + len(batch[0])
            on_images((step + 1) * len(batch[0]), config.epochs * len(loader) * len(batch[0]))
        seconds = time.perf_counter() - began
        history.append(
            EpochRecord(
                epoch=epoch + 1,
                loss=loss_sum / len(loader),
                accuracy=num_right / num_images,
                lr=config.optimizer.lr * fraction,
                seconds=seconds,
                images_per_second=num_images / seconds,
            )
        )
        yield TrainState(history=list(history), tensors=trainer.tensors())


class Trainer:
    """A network with its optimizers, its moving average and its mixing."""

    def __init__(self, member: MemberConfig, machine: Machine) -> None:
        config = member.train
        self._config, self._machine = config, machine
        self.model = build_model(member, machine.device)
        self._forward = torch.compile(self.model) if machine.compile else self.model
        self.optimizers: list[Optimizer] = make_optimizers(self.model, config.optimizer)
        self._ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self._num_updates = 0
        self._image_size = config.image_size(0)
        mixes = config.mixup_alpha > 0 or config.cutmix_alpha > 0
        self._mixup = (
            Mixup(config.mixup_alpha, config.cutmix_alpha, label_smoothing=0.0, num_classes=NUM_CLASSES)
            if mixes
            else None
        )
        self._criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def whiten(self, images: NDArray[np.uint8], seed: int) -> None:
        """Set a whitening layer, if there is one, from images of this fold."""
        if isinstance(self.model, Airbench):
            rows = np.random.default_rng(derive_seed(seed, "whiten")).permutation(len(images))[:NUM_WHITENING_IMAGES]
            self.model.whiten(normalize(torch.from_numpy(images[np.sort(rows)]), self._machine.device))

    def begin_epoch(self, epoch: int) -> None:
        """Go into training mode, choose the size of the pictures, and freeze what is no longer trained."""
        self.model.train()
        self._image_size = self._config.image_size(epoch)
        limit = self._config.whiten_bias_epochs
        if limit is not None and epoch >= limit and isinstance(self.model, Airbench):
            self.model.freeze_whitening()

    def step(self, batch: Batch, lr_now: float, where: str) -> tuple[float, int]:
        """Learn from one batch; return the loss and how many images were right before it."""
        inputs = shrink(normalize(batch[0], self._machine.device), self._image_size)
        classes = batch[1].to(self._machine.device)
        targets = classes
        if self._mixup is not None:
            inputs, targets = self._mixup(inputs, classes)
        with torch.autocast(self._machine.device.type, torch.bfloat16, enabled=self._machine.autocast):
            logits = self._forward(inputs)
        loss = self._criterion(logits.float(), targets)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at {where}; the weights of the last whole epoch are kept. "
                "Lower train.optimizer.lr (or muon.lr), or look at the images"
            )
        set_learning_rates(self.optimizers, lr_now)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._num_updates += 1
        if self._ema is not None:
            self._ema.update(self.model, step=self._num_updates)
        return value, int((logits.detach().argmax(1) == classes).sum())

    def tensors(self) -> dict[str, Tensor]:
        """Copy all that changes in a training into one flat dict."""
        found: dict[str, Tensor] = {"num_updates": torch.tensor(self._num_updates)}
        found |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self._ema is not None:
            found |= {f"ema.{name}": value for name, value in self._ema.module.state_dict().items()}
        for place, optimizer in enumerate(self.optimizers):
            for weight, values in optimizer.state_dict()["state"].items():
                found |= {
                    f"optimizer.{place}.{weight}.{name}": torch.as_tensor(value)
                    for name, value in values.items()
                    if value is not None
                }
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state that `tensors` gave. Raises TrainingError for that of another network."""
        try:
            self._load(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise TrainingError(f"the checkpoint is of another network ({text}); delete it to begin anew") from None

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self._num_updates = int(tensors["num_updates"])
        self.model.load_state_dict(_strip_prefix(tensors, "model."))
        if self._ema is not None:
            self._ema.module.load_state_dict(_strip_prefix(tensors, "ema."))
        for place, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Any]] = {}
            for name, value in _strip_prefix(tensors, f"optimizer.{place}.").items():
                weight, key = name.split(".", 1)
                state.setdefault(int(weight), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _seed_global_generators(seed: int) -> None:
    """Dropout draws from torch's generator, timm's Mixup from numpy's global one."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
