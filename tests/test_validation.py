from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config import Config
from pipeline.demo.images import draw_image
from pipeline.errors import TrainingError
from pipeline.learning import validation
from pipeline.learning.device import Machine
from pipeline.learning.predict import predict
from pipeline.learning.train import build_model, train_fold
from pipeline.learning.validation import Validation, sample_rows
from pipeline.member_config import MemberConfig
from pipeline.task import CIFAR10

LABELS = np.arange(96) % 10
IMAGES = np.stack([draw_image(int(label), np.random.default_rng(i)) for i, label in enumerate(LABELS)])
MACHINE = Machine()
MUON = {
    "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
    "train": {"epochs": 4, "batch_size": 32, "optimizer": {"muon": {"lr": 0.1}}},
}
EMA_AND_MIXUP = {
    "model": {"name": "test_resnet", "params": {"drop_rate": 0.2}},
    "train": {"epochs": 2, "batch_size": 32, "ema_decay": 0.9, "mixup_alpha": 0.5, "cutmix_alpha": 1.0},
}


def configured(member, **train):
    return MemberConfig.model_validate({**member, "train": {**member["train"], **train}})


def train(member, *, validated=True):
    """Train on two thirds of the images and validate on the others; return the states."""
    validate = Validation(member, CIFAR10, IMAGES[64:], LABELS[64:], MACHINE) if validated else None
    states = train_fold(member, CIFAR10, IMAGES[:64], LABELS[:64], seed=5, machine=MACHINE, validate=validate)
    return [
        replace(state, tensors={name: tensor.clone() for name, tensor in state.tensors.items()}) for state in states
    ]


@pytest.mark.parametrize("member", [MUON, EMA_AND_MIXUP], ids=["muon", "ema_and_mixup"])
def test_validation_changes_no_byte_of_the_training(member):
    config = configured(member)

    with_validation, without = train(config), train(config, validated=False)

    for one, other in zip(with_validation, without, strict=True):
        assert one.history[-1].validation_accuracy is not None
        assert other.history[-1].validation_accuracy is None
        assert one.history[-1].loss == other.history[-1].loss
        assert all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items())


@pytest.mark.parametrize("member", [MUON, EMA_AND_MIXUP], ids=["muon", "ema_and_mixup"])
def test_each_epoch_has_the_loss_and_accuracy_of_the_weights_that_would_be_saved_then(member):
    config = configured(member)

    for state in train(config):
        model, spec = build_model(config, CIFAR10, MACHINE.device, state.weights())
        logits = predict(model, spec, IMAGES[64:], "none", MACHINE)
        log_probabilities = torch.log_softmax(torch.from_numpy(logits), 1)[np.arange(32), LABELS[64:]]
        assert state.history[-1].validation_accuracy == (logits.argmax(1) == LABELS[64:]).mean()
        assert state.history[-1].validation_loss == pytest.approx(-log_probabilities.mean().item())


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4]), (3, [3, 4]), (9, [4])])
def test_epochs_at_the_interval_and_the_last_one_are_validated(every, expected):
    history = train(configured(MUON, validate_every=every))[-1].history

    assert [record.epoch for record in history if record.validation_accuracy is not None] == expected


def test_training_below_the_required_validation_accuracy_ends_after_the_epoch_with_one_line():
    member = configured(MUON, stop_if_hopeless={"accuracy": 0.99, "after": 0.5})
    validate = Validation(member, CIFAR10, IMAGES[64:], LABELS[64:], MACHINE)
    states = train_fold(member, CIFAR10, IMAGES[:64], LABELS[:64], seed=5, machine=MACHINE, validate=validate)

    assert [next(states).num_epochs, next(states).num_epochs] == [1, 2]
    with pytest.raises(TrainingError, match=r"0\.\d{4} after epoch 2 of 4, and train\.stop_if_hopeless requires 0\.99"):
        next(states)


def test_training_with_the_required_validation_accuracy_goes_on():
    history = train(configured(MUON, stop_if_hopeless={"accuracy": 0.01, "after": 0.25}))[-1].history

    assert len(history) == 4


def test_stopping_without_validation_is_rejected():
    with pytest.raises(ValueError, match="stop_if_hopeless needs the validation accuracy: set validate_every"):
        configured(MUON, validate_every=0, stop_if_hopeless={"accuracy": 0.2})


def test_validation_is_not_part_of_the_experiment():
    one, other = (
        Config.model_validate({"members": {"a": {**MUON, "train": {**MUON["train"], "validate_every": every}}}})
        for every in (0, 2)
    )

    assert one.experiment() == other.experiment()


def test_at_most_five_thousand_images_are_sampled_without_repetition():
    few, many, of_another_seed = sample_rows(40, 1), sample_rows(20_000, 1), sample_rows(20_000, 2)

    assert few.tolist() == list(range(40))
    assert len(many) == len(set(many.tolist())) == validation.MAX_IMAGES
    assert many.max() < 20_000
    assert many.tolist() != of_another_seed.tolist()
