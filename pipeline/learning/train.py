"""One member of the ensemble on one fold: images in, the state after each epoch out. Saves nothing."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from pipeline.error_messages import on_one_line
from pipeline.errors import TrainingError
from pipeline.learning.compile import compile_model
from pipeline.learning.dataset import AugmentedImages, Batch, TrainLoader
from pipeline.learning.depthwise import train_depthwise_in_float32
from pipeline.learning.device import Machine
from pipeline.learning.freeze import Freezer
from pipeline.learning.inputs import InputSpec
from pipeline.learning.models import classifier_names, create_model, create_untrained_model, hooks_of, input_spec
from pipeline.learning.optim import (
    learning_rates,
    load_optimizer,
    lr_scale,
    make_optimizers,
    optimizer_tensors,
    set_learning_rates,
)
from pipeline.learning.seeding import derive_seed
from pipeline.learning.train_state import EpochRecord, TrainState, UnfinishedEpoch, strip_prefix
from pipeline.learning.transfer import Readback, to_device
from pipeline.member_config import MemberConfig, Phase, TrainConfig
from pipeline.progress import ProgressCallback, no_progress
from pipeline.task import Task

Validate = Callable[[Mapping[str, Tensor]], tuple[float, float]]  # weights -> loss in nats, accuracy
NUM_INIT_IMAGES = 5000  # training images for layers that are initialised from data


def build_model(
    member: MemberConfig, task: Task, device: torch.device, weights: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, InputSpec]:
    """Return a member's model, with trained weights if given, and its input.

    Raises TrainingError for the weights of another model.
    """
    if weights is None:
        model, spec = create_model(member.model, task)
    else:
        model, spec = create_untrained_model(member.model, task), input_spec(member.model, task)
    model = model.to(device).to(memory_format=torch.channels_last)
    if weights is not None:
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise TrainingError(
                f"the weights do not match the model {member.model.name}: {on_one_line(error)}"
            ) from None
    return model, spec


def make_loader(
    member: MemberConfig, images: NDArray[np.uint8], labels: NDArray[np.int64], *, seed: int, num_workers: int = 0
) -> TrainLoader:
    """Return a member's training batches of a fold: uint8 images [N, height, width, 3] with labels [N]."""
    dataset = AugmentedImages(
        images, labels, member.augment, derive_seed(seed, "augment"), alternating_flip=member.alternating_flip
    )
    batch_size = member.train.actual_batch_size(len(images))
    return TrainLoader(dataset, batch_size, derive_seed(seed, "batches"), num_workers)


def train_fold(
    member: MemberConfig,
    task: Task,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    seed: int,
    machine: Machine,
    resume: TrainState | None = None,
    validate: Validate | None = None,
    is_save_due: Callable[[], bool] = lambda: False,
    on_progress: ProgressCallback = no_progress,
) -> Generator[TrainState, None, None]:
    """Train on uint8 images [N, height, width, 3] with labels [N]; yield the state after each epoch.

    And after a step when `is_save_due` says so. The weights depend on the arguments alone, so a resumed training ends
    with the same bytes, `validate` or not: it is called with the weights after the epochs that the config validates.
    `on_progress` is called with (done, total) images over all epochs. Raises TrainingError, with epoch and step, before
    a loss that is not finite changes the weights, instead of a state that is not finite, and after one whose validation
    accuracy is below that of `stop_if_hopeless`. Close it if it is not consumed: its workers end then.
    """
    config = member.train
    torch.manual_seed(derive_seed(seed, "weights"))
    trainer = Trainer(member, task, machine)
    trainer.init_from_data(images, seed)
    history: list[EpochRecord] = []
    unfinished = UnfinishedEpoch()
    if resume is not None and resume.tensors:
        trainer.load(resume.tensors)
        history, unfinished = list(resume.history), resume.unfinished_epoch or unfinished
    with make_loader(member, images, labels, seed=seed, num_workers=machine.num_workers) as loader:
        for epoch in range(len(history), config.epochs):
            with closing(_train_epoch(trainer, config, loader, epoch, unfinished, seed, on_progress)) as steps:
                for sums in steps:
                    is_last = sums.num_steps == len(loader)
                    if is_last:
                        history.append(trainer.epoch_record(epoch, sums))
                    if is_last or is_save_due():
                        state = TrainState(list(history), trainer.tensors(), None if is_last else sums)
                        state.check_finite()
                        if is_last and validate is not None and config.is_validated(epoch):
                            history[-1] = _with_validation(history[-1], validate(state.weights()))
                            state = replace(state, history=list(history))
                        yield state
            _check_hopeful(config, history[-1])
            unfinished = UnfinishedEpoch()


def _with_validation(record: EpochRecord, metrics: tuple[float, float]) -> EpochRecord:
    loss, accuracy = metrics
    return replace(record, validation_loss=loss, validation_accuracy=accuracy)


def _check_hopeful(config: TrainConfig, record: EpochRecord) -> None:
    """Raise TrainingError if the config says that a training with this validation accuracy is hopeless."""
    stop, accuracy = config.stop_if_hopeless, record.validation_accuracy
    if stop is None or accuracy is None or record.epoch < stop.after * config.epochs or accuracy >= stop.accuracy:
        return
    raise TrainingError(
        f"the validation accuracy is {accuracy:.4f} after epoch {record.epoch} of {config.epochs}, and "
        f"train.stop_if_hopeless requires {stop.accuracy:g} from {stop.after:.0%} of the epochs on: check "
        "train.optimizer.lr (or muon.lr) and choose another --run, or set stop_if_hopeless: null"
    )


def _train_epoch(
    trainer: "Trainer",
    config: TrainConfig,
    loader: TrainLoader,
    epoch: int,
    sums: UnfinishedEpoch,
    seed: int,
    on_progress: ProgressCallback,
) -> Generator[UnfinishedEpoch, None, None]:
    """Train for the rest of an epoch (from 0); yield the sums over its steps after each."""
    num_steps = config.epochs * len(loader)
    trainer.start_phase(trainer.phase(epoch))
    start = time.perf_counter()
    with closing(loader.epoch(epoch, first_batch=sums.num_steps)) as batches:
        for index, batch in enumerate(batches, start=sums.num_steps):
            step = epoch * len(loader) + index
            _seed_global_generators(derive_seed(seed, "step", step))
            scale = lr_scale(step, num_steps, config.schedule)
            loss, num_correct = trainer.step(batch, scale, f"epoch {epoch + 1}, step {index + 1} of {len(loader)}")
            sums = sums.add(loss, num_correct, len(batch[0]), time.perf_counter() - start)
            on_progress((step + 1) * len(batch[0]), num_steps * len(batch[0]))
            yield sums
            start = time.perf_counter()  # a checkpoint is no training time


class Trainer:
    """A model with its optimizers, its moving average (EMA) and its Mixup."""

    def __init__(self, member: MemberConfig, task: Task, machine: Machine) -> None:
        config = member.train
        self._config, self._machine = config, machine
        self.model, self._spec = build_model(member, task, machine.device)
        self._phase_spec = self._spec
        if machine.autocast and machine.device.type == "cpu":
            train_depthwise_in_float32(self.model)
        self._freezer = Freezer(self.model, config.freeze, classifier_names(self.model))
        self._freezer.apply(is_head_only=False)
        if machine.compile:
            compile_model(self.model)
        self.optimizers = make_optimizers(self.model, config.optimizer)
        self._ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self._num_updates = 0
        self._mixup = (
            Mixup(config.mixup_alpha, config.cutmix_alpha, label_smoothing=0.0, num_classes=task.num_classes)
            if config.mixes_images
            else None
        )
        self._criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def init_from_data(self, images: NDArray[np.uint8], seed: int) -> None:
        """Initialise the layers that depend on the fold's training images, if the model has any."""

        def sample() -> Tensor:
            rows = np.random.default_rng(derive_seed(seed, "whiten")).permutation(len(images))[:NUM_INIT_IMAGES]
            return self._spec.to_input(torch.from_numpy(images[np.sort(rows)]), self._machine.device)

        hooks_of(self.model).init_from_data(sample)

    def phase(self, epoch: int) -> Phase:
        """Return the phase of an epoch (from 0)."""
        return self._config.phase(epoch, self._spec.size)

    def start_phase(self, phase: Phase) -> None:
        """Set training mode, image size and frozen layers; the whitening bias stays frozen."""
        self.model.train()
        self._phase_spec = self._spec.at_size(phase.image_size)
        self._freezer.apply(is_head_only=phase.is_head_only)
        if phase.is_whitening_frozen:
            hooks_of(self.model).freeze_whitening_bias()

    def step(self, batch: Batch, scale: float, position: str) -> tuple[float, int]:
        """Run one optimisation step; return the loss and the number of correct predictions before it.

        `scale` is relative to the peak learning rates; `position` locates the step in an error.
        """
        try:
            loss, num_correct = self._add_gradients(batch)
        except torch.OutOfMemoryError:
            parts = 2 * self._config.accumulate
            raise TrainingError(
                f"the GPU is out of memory with batches of {len(batch[0])} images in {self._config.accumulate} parts; "
                f"set train.accumulate={parts}, or a smaller train.batch_size, and choose another --run"
            ) from None
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at {position}; the weights of the last complete epoch are kept. "
                "Lower train.optimizer.lr (or muon.lr) and choose another --run, or check the images"
            )
        if self._config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._config.clip_grad)
        set_learning_rates(self.optimizers, scale)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        self._num_updates += 1
        if self._ema is not None:
            self._ema.update(self.model, step=self._num_updates)
        return loss, num_correct

    def _add_gradients(self, batch: Batch) -> tuple[float, int]:
        """Add up the gradients of the parts of a batch; return its loss and the number of correct predictions."""
        inputs = self._phase_spec.to_input(batch[0], self._machine.device)
        labels = to_device(batch[1], self._machine.device)
        targets = labels
        if self._mixup is not None:
            inputs, targets = self._mixup(inputs, labels)
        readbacks, num_parts = list[Readback](), self._config.accumulate
        for part, part_targets, part_labels in zip(
            *(tensor.chunk(num_parts) for tensor in (inputs, targets, labels)), strict=True
        ):
            with torch.autocast(self._machine.device.type, torch.bfloat16, enabled=self._machine.autocast):
                logits = self.model(part)
            loss = self._criterion(logits.float(), part_targets) * (len(part) / len(inputs))
            num_correct = (logits.detach().argmax(1) == part_labels).sum()
            # Before the backward pass, for which a later copy would wait.
            readbacks.append(Readback(torch.stack([loss.detach(), num_correct.float()])))
            loss.backward()
        losses, counts = zip(*(readback.values() for readback in readbacks), strict=True)
        return sum(losses), int(sum(counts))

    def epoch_record(self, epoch: int, sums: UnfinishedEpoch) -> EpochRecord:
        """Return the record of an epoch (from 0) that has just ended."""
        return EpochRecord(
            epoch=epoch + 1,
            loss=sums.loss_sum / sums.num_steps,
            accuracy=sums.num_correct / sums.num_images,
            learning_rates=learning_rates(self.optimizers),
            seconds=sums.seconds,
            images_per_second=sums.num_images / sums.seconds,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that changes during training in one flat dict; not a copy."""
        state: dict[str, Tensor] = {"num_updates": torch.tensor(self._num_updates)}
        state |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self._ema is not None:
            state |= {f"ema.{name}": value for name, value in self._ema.module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            state |= optimizer_tensors(optimizer, f"optimizer.{name}.")
        return {name: value.detach() for name, value in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned. Raises TrainingError for the state of another model."""
        try:
            self._load(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"the checkpoint does not match the model ({on_one_line(error)}); delete it to restart the fold"
            ) from None

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self._num_updates = int(tensors["num_updates"])
        self.model.load_state_dict(strip_prefix(tensors, "model."))
        if self._ema is not None:
            self._ema.module.load_state_dict(strip_prefix(tensors, "ema."))
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, strip_prefix(tensors, f"optimizer.{name}."))


def _seed_global_generators(seed: int) -> None:
    """Seed torch's generator, which dropout draws from, and numpy's global one, which timm's Mixup draws from."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
