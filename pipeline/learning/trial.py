"""A trial of a member on a few random images: what would fail after hours of training fails before it starts."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.error_messages import on_one_line
from pipeline.errors import ConfigError, TrainingError
from pipeline.learning.augment import Augmentation
from pipeline.learning.device import Machine
from pipeline.learning.flops import prediction_flops, training_flops
from pipeline.learning.linear_head import extract_features, train_linear_head
from pipeline.learning.models import create_meta_model, input_spec, model_size
from pipeline.learning.predict import predict
from pipeline.learning.train import Trainer, build_model
from pipeline.learning.train_state import TrainState
from pipeline.member_config import MemberConfig, ModelConfig
from pipeline.task import Task

BATCH_SIZE = 4  # even, as Mixup requires
NUM_IMAGES = 5  # of the prediction, whose last batch is then a single image
MAX_MODULES = 10_000  # several times those of the largest model of timm
COPIES_IN_TRAINING = 3  # of the weights: themselves, their gradients and momentum


def try_member(name: str, member: MemberConfig, task: Task, machine: Machine) -> None:
    """Augment, train for a step at every image size, predict with all TTA views, and count the operations.

    Takes random images, and leaves no trace: neither memory nor another state of torch's and numpy's generators. Raises
    ConfigError, which names the key, for whatever fails.
    """
    machine = replace(machine, compile=False, num_workers=0, predict_batch_size=BATCH_SIZE)
    try:
        with _restored_generators(machine.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training shows them
            try:
                _try(member, task, machine)
            except _ModelError as error:
                raise ConfigError(f"{error.key}: {error}{_suggest(member.model, task)}") from None
    except ConfigError as error:
        raise ConfigError(f"members.{name}.{error}") from None
    finally:
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()


class _ModelError(Exception):
    """Any error of a model, with the key to which it belongs."""

    def __init__(self, key: str, error: Exception) -> None:
        # Of the errors of training and prediction, what was found; their advice is for a training that has diverged.
        is_ours = isinstance(error, _OutputError | TrainingError)
        text = f"on random images, {re.split('[;:]', str(error))[0]}" if is_ours else on_one_line(error)
        super().__init__(text if is_ours else f"{type(error).__name__}: {text}".removesuffix(": "))
        self.key = key


class _OutputError(Exception):
    """An output that is not logits."""


def _try(member: MemberConfig, task: Task, machine: Machine) -> None:
    config, full_size = member.train, input_spec(member.model, task).size
    for stage in config.progressive_resizing:
        if stage.size > full_size:
            raise ConfigError(
                f"train.progressive_resizing: size {stage.size} is larger than the model's input of {full_size} pixels"
            )
    Augmentation(member.augment, task.image_shape)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *task.image_shape), np.uint8)
    batch = torch.from_numpy(images[:BATCH_SIZE]), torch.from_numpy(rng.integers(task.num_classes, size=BATCH_SIZE))
    with _errors_of("model"):
        _check_size(member, task)
        if member.head == "linear":
            _try_linear_head(member, task, machine, images)
            return
        trainer = Trainer(member, task, machine)
        trainer.model.register_forward_hook(_LogitsCheck(task.num_classes))
        trainer.init_from_data(images, seed=0)
    for phase in config.phases(full_size):
        size = phase.image_size
        with _errors_of("model" if size == full_size else f"train.progressive_resizing: size {size}"):
            trainer.start_phase(phase)
            # With a learning rate of 0: a high one, without its warm-up, may diverge where the training does not.
            trainer.step(batch, 0.0, "the trial step")
    with _errors_of("train.optimizer"):
        trainer.load(trainer.tensors())
    with _errors_of("model"):
        # Of the TTA views, these include all others.
        predict(trainer.model, input_spec(member.model, task), images, "flip_translate", machine)
        training_flops(member, task, BATCH_SIZE)
        prediction_flops(member, task, "none")


def _try_linear_head(member: MemberConfig, task: Task, machine: Machine, images: NDArray[np.uint8]) -> None:
    features = extract_features(member, task, images, machine)
    labels = np.arange(2 * task.num_classes) % task.num_classes  # a regression needs images of every class
    features = np.resize(features, (len(features), len(labels), features.shape[-1]))
    (state,) = train_linear_head(member, task, features, labels, resume=TrainState())
    model, spec = build_model(member, task, machine.device, state.weights())
    predict(model, spec, images, "flip_translate", machine)
    training_flops(member, task, BATCH_SIZE)


@contextmanager
def _errors_of(key: str) -> Iterator[None]:
    """Convert any error but a ConfigError: models of timm raise errors of every class."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise _ModelError(key, error) from None


class _LogitsCheck:
    """A forward hook that raises _OutputError for an output that is not logits [batch, classes]."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def __call__(self, _model: nn.Module, inputs: tuple[Tensor], output: Any) -> None:
        expected = (len(inputs[0]), self._num_classes)
        if not isinstance(output, Tensor):
            raise _OutputError(
                f"the model returns a {type(output).__name__}, expected a tensor of logits {[*expected]}"
            )
        if output.shape != expected or not output.is_floating_point():
            found = f"{output.dtype} {[*output.shape]}".removeprefix("torch.")
            raise _OutputError(f"the model returns {found}, expected logits {[*expected]}")


def _check_size(member: MemberConfig, task: Task) -> None:
    """Raise ConfigError for a model that takes hours, or all memory, for which the system would kill the process."""
    try:
        model = create_meta_model(member.model, task)
    except ConfigError:
        raise
    except Exception:
        return  # some models can't be created on the meta device
    num_modules = sum(1 for _ in model.modules())
    if num_modules > MAX_MODULES:
        raise ConfigError(f"model: {member.model.name} has {num_modules:,} modules, expected at most {MAX_MODULES:,}")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    needed = COPIES_IN_TRAINING * torch.float32.itemsize * num_parameters
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > memory:
        raise ConfigError(
            f"model: {member.model.name} has {num_parameters:,} parameters; to train it takes {needed / 1e9:.0f} GB of "
            f"memory, and this machine has {memory / 1e9:.0f} GB; choose a smaller model or smaller params"
        )


def _suggest(model: ModelConfig, task: Task) -> str:
    """Return a hint at the first settings with which a model passes, if any does."""
    size, own_size = input_spec(model, task).size, model_size(model)
    for params in ({"img_size": size, "patch_size": 4}, {"img_size": size}):
        if passes_on_meta(model.model_copy(update={"params": {**model.params, **params}}), task):
            return f"; it works with model.params: {{{', '.join(f'{key}: {value}' for key, value in params.items())}}}"
    if own_size not in (None, size) and passes_on_meta(model.model_copy(update={"image_size": own_size}), task):
        return f"; it works with model.image_size: {own_size}"
    return "; choose another model, or other model.params"


def passes_on_meta(config: ModelConfig, task: Task) -> bool:
    """Return whether a model trains and predicts on the meta device, which computes nothing, and returns logits."""
    size = input_spec(config, task).size
    try:
        model = create_meta_model(config, task).train()
        with torch.device("meta"):
            images, labels = torch.zeros(BATCH_SIZE, 3, size, size), torch.zeros(BATCH_SIZE, dtype=torch.long)
        logits = model(images)
        cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            model.eval()(images[:1])
    except Exception:
        return False  # of any class, as in `_errors_of`
    return bool(logits.shape == (BATCH_SIZE, task.num_classes))


@contextmanager
def _restored_generators(device: torch.device) -> Iterator[None]:
    """Restore the state of the generators of torch, on the CPU and the device, and of numpy."""
    state = np.random.get_state()  # noqa: NPY002 (timm's Mixup draws from it)
    devices = [] if device.type == "cpu" else [device]
    try:
        with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
