import itertools
import multiprocessing
import re
import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.demo.images import draw_image
from pipeline.errors import ConfigError, TrainingError
from pipeline.learning.airbench import Airbench
from pipeline.learning.device import Machine
from pipeline.learning.inputs import InputSpec
from pipeline.learning.predict import predict
from pipeline.learning.train import Trainer, build_model, train_fold
from pipeline.learning.train_state import EpochRecord, TrainState
from pipeline.member_config import MemberConfig
from pipeline.task import CIFAR10
from pipeline.temperature_scaling import to_probabilities

LABELS = np.arange(96) % 10
IMAGES = np.stack([draw_image(int(label), np.random.default_rng(i)) for i, label in enumerate(LABELS)])
CPU = torch.device("cpu")
MACHINE = Machine()

MUON = {
    "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
    "augment": [{"name": "HorizontalFlip", "params": {"p": 0.5}}],
    "train": {"epochs": 4, "batch_size": 32, "label_smoothing": 0.1, "optimizer": {"muon": {"lr": 0.1}}},
}
EMA_AND_MIXUP = {
    "model": {"name": "test_resnet", "params": {"drop_rate": 0.2}},
    "train": {"epochs": 4, "batch_size": 32, "ema_decay": 0.9, "mixup_alpha": 0.5, "cutmix_alpha": 1.0},
}
RESIZING = {
    **MUON,
    "alternating_flip": True,
    "train": {**MUON["train"], "progressive_resizing": [{"until": 0.5, "size": 24}]},
}
FREEZING = {**MUON, "train": {**MUON["train"], "whiten_bias_epochs": 2}}
FINE_TUNING = {
    "model": {"name": "test_efficientnet", "image_size": 48, "stem": "keep", "params": {"drop_path_rate": 0.3}},
    "train": {
        "epochs": 4,
        "batch_size": 32,
        "accumulate": 2,
        "clip_grad": 1.0,
        "freeze": {"num_stages": 2, "head_only_epochs": 1, "batch_norms": True},
        "optimizer": {"name": "lamb", "lr": 0.01, "layer_decay": 0.7, "decay_norms_and_biases": False},
    },
}
RECORD = EpochRecord(
    epoch=3,
    loss=1.5,
    accuracy=0.25,
    learning_rates={"sgd": 0.1, "muon": 0.2},
    seconds=2.0,
    images_per_second=48.0,
)


def states(member, machine=MACHINE, *, images=IMAGES, seed=5, **options):
    config = MemberConfig.model_validate(member)
    return list(train_fold(config, CIFAR10, images, LABELS, seed=seed, machine=machine, **options))


def iterate(member):
    return train_fold(MemberConfig.model_validate(member), CIFAR10, IMAGES, LABELS, seed=5, machine=MACHINE)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "member",
    [MUON, EMA_AND_MIXUP, FREEZING, RESIZING, FINE_TUNING],
    ids=["muon", "ema+mixup+cutmix+dropout", "freezing", "resizing", "fine-tuning"],
)
@pytest.mark.parametrize("num_checks", [1, 4, 7])
def test_training_that_was_interrupted_within_an_epoch_ends_with_the_same_bytes(member, num_checks):
    whole, config, calls = states(member), MemberConfig.model_validate(member), itertools.count(1)
    options = {"seed": 5, "machine": MACHINE, "is_save_due": lambda: next(calls) == num_checks}
    with closing(train_fold(config, CIFAR10, IMAGES, LABELS, **options)) as training:
        interrupted = next(state for state in training if state.unfinished_epoch is not None)
        saved = {name: tensor.clone() for name, tensor in interrupted.tensors.items()}
    torch.manual_seed(12345)
    np.random.seed(12345)
    resumed = states(member, resume=replace(interrupted, tensors=saved))

    assert same(whole[-1].tensors, resumed[-1].tensors)
    assert [record.loss for record in whole[-1].history] == [record.loss for record in resumed[-1].history]
    assert [record.accuracy for record in whole[-1].history] == [record.accuracy for record in resumed[-1].history]


@pytest.mark.parametrize(
    "member",
    [MUON, EMA_AND_MIXUP, FREEZING, RESIZING, FINE_TUNING],
    ids=["muon", "ema+mixup+cutmix+dropout", "freezing", "resizing", "fine-tuning"],
)
def test_resumed_training_ends_with_the_same_bytes(member):
    whole, config = states(member), MemberConfig.model_validate(member)
    training = train_fold(config, CIFAR10, IMAGES, LABELS, seed=5, machine=MACHINE)
    interrupted = list(itertools.islice(training, 2))
    torch.manual_seed(12345)
    resumed = states(member, resume=TrainState(interrupted[-1].history, dict(interrupted[-1].tensors)))

    assert [state.num_epochs for state in resumed] == [3, 4]
    assert same(whole[-1].tensors, resumed[-1].tensors)
    assert same(whole[-1].weights(), resumed[-1].weights())


def test_weights_do_not_depend_on_the_number_of_workers():
    with_workers = states(MUON, Machine(num_workers=2))

    assert same(states(MUON)[-1].tensors, with_workers[-1].tensors)


def test_another_seed_gives_other_weights():
    one, other = (states(MUON, seed=seed)[-1].weights() for seed in (1, 2))

    assert not same(one, other)


def test_training_on_one_batch_lowers_its_loss():
    member = {**MUON, "augment": [], "train": {**MUON["train"], "epochs": 12, "batch_size": 96}}
    history = states(member)[-1].history

    assert history[-1].loss < history[0].loss - 0.15
    assert history[-1].accuracy > history[0].accuracy
    assert [record.epoch for record in history] == list(range(1, 13))
    assert all(record.images_per_second > 0 for record in history)


def test_history_has_the_learning_rates_of_sgd_and_muon():
    """Three steps per epoch, a warm-up over a fifth of the training, linear decay; peaks 0.1 and 0.2."""
    optimizer = {"lr": 0.1, "norm_bias_lr_scale": 64, "head_lr_scale": 2, "muon": {"lr": 0.2}}
    rows = states({**MUON, "train": {**MUON["train"], "optimizer": optimizer}})[-1].rows()
    scales = [0.2 + 0.8 * (2 / 12) / 0.2, (7 / 12) / 0.8, (4 / 12) / 0.8, (1 / 12) / 0.8]

    assert [row["lr_sgd"] for row in rows] == pytest.approx([0.1 * scale for scale in scales])
    assert [row["lr_muon"] for row in rows] == pytest.approx([0.2 * scale for scale in scales])


def test_history_without_muon_has_only_the_learning_rate_of_sgd():
    member = {"model": {"name": "tutorial_cnn"}, "train": {"epochs": 1, "schedule": {"kind": "constant"}}}

    assert [record.learning_rates for record in states(member)[-1].history] == [{"sgd": 0.1}]


def test_epoch_record_is_a_flat_row_in_the_order_of_the_columns():
    row = RECORD.to_row()

    validation = ["validation_loss", "validation_accuracy"]
    assert list(row) == ["epoch", "loss", "accuracy", *validation, "lr_sgd", "lr_muon", "seconds", "images_per_second"]
    assert list(row.values()) == [3, 1.5, 0.25, None, None, 0.1, 0.2, 2.0, 48.0]
    assert EpochRecord.from_row(row) == RECORD


def test_loss_that_is_not_finite_ends_the_training():
    member = {**MUON, "train": {**MUON["train"], "optimizer": {"lr": 1e30, "weight_decay": 0}}}

    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at epoch \d, step \d of 3; .* Lower train\.optim"):
        states(member)


def test_loss_that_is_not_finite_leaves_the_weights_unchanged():
    trainer = Trainer(MemberConfig.model_validate(MUON), CIFAR10, MACHINE)
    torch.nn.init.constant_(trainer.model.head.weight, torch.inf)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}

    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at the only step; .* Lower train\.optim"):
        trainer.step((torch.from_numpy(IMAGES), torch.from_numpy(LABELS)), 1.0, "the only step")
    assert same(dict(trainer.model.named_parameters()), before)
    assert trainer.tensors()["num_updates"] == 0


def test_whitening_is_initialised_from_the_images_of_the_fold():
    one, other = (states(MUON, images=images)[0].weights()["stem.weight"] for images in (IMAGES, 255 - IMAGES // 2))

    assert not torch.allclose(one.abs(), other.abs(), rtol=0.01)


def test_frozen_whitening_bias_does_not_change():
    biases = [state.tensors["model.stem.bias"].clone() for state in iterate(FREEZING)]

    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(biases[1], biases[3])


def test_progressive_resizing_follows_the_config(monkeypatch):
    sizes, forward = [], Airbench.forward
    monkeypatch.setattr(Airbench, "forward", lambda model, x: sizes.append(tuple(x.shape[-2:])) or forward(model, x))
    states(RESIZING)

    assert sizes == [(24, 24)] * 6 + [(32, 32)] * 6


def test_moving_average_of_the_weights_is_used_for_inference():
    state = states(EMA_AND_MIXUP)[-1]

    assert torch.equal(state.weights()["conv1.weight"], state.tensors["ema.conv1.weight"])
    assert not torch.equal(state.tensors["ema.conv1.weight"], state.tensors["model.conv1.weight"])


def test_built_model_has_the_weights_and_the_input_of_its_task():
    member, weights = MemberConfig.model_validate(MUON), states(MUON)[-1].weights()
    model, spec = build_model(member, CIFAR10, CPU, weights)

    assert same(dict(model.state_dict()), weights)
    assert spec == InputSpec.for_task(CIFAR10)


def test_weights_of_another_model_are_rejected():
    weights = states(MUON)[-1].weights()
    wider = {**MUON, "model": {"name": "airbench94", "params": {"widths": [4, 8, 16]}}}

    with pytest.raises(TrainingError, match=r"the weights do not match the model airbench94: .*size mismatch"):
        build_model(MemberConfig.model_validate(wider), CIFAR10, CPU, weights)


def test_checkpoint_of_another_model_is_rejected():
    state = states(MUON)[0]

    with pytest.raises(TrainingError, match=r"the checkpoint does not match the model .*; delete it to restart"):
        states(EMA_AND_MIXUP, resume=state)


def test_model_has_the_classes_and_image_size_of_another_task():
    task = replace(CIFAR10, class_names=("a", "b", "c", "d", "e"), image_shape=(48, 48, 3))
    member = MemberConfig.model_validate({"model": {"name": "tutorial_cnn"}, "train": {"epochs": 1, "batch_size": 4}})
    images = np.random.default_rng(0).integers(0, 256, size=(8, 48, 48, 3), dtype=np.uint8)
    (state,) = train_fold(member, task, images, np.arange(8) % 5, seed=5, machine=MACHINE)

    assert state.weights()["fc1.weight"].shape == (120, 16 * 9 * 9)
    assert state.weights()["head.weight"].shape == (5, 84)


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_model_is_compiled_once_for_all_folds_and_trains_to_the_same_weights():
    member = {**MUON, "train": {**MUON["train"], "epochs": 1}}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = [states(member, Machine(compile=True)) for _ in range(2)]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    eager, first, second = states(member)[-1].weights(), *(fold[-1].weights() for fold in compiled)

    assert graphs == 1
    assert same(first, second)
    assert all(torch.allclose(eager[name], first[name], atol=0.05) for name in eager)


def test_autocast_trains_and_predicts_on_the_cpu():
    state = states(MUON, Machine(autocast=True))[-1]
    model, spec = build_model(MemberConfig.model_validate(MUON), CIFAR10, CPU, state.weights())
    exact, cast = (
        to_probabilities(predict(model, spec, IMAGES, "flip", Machine(autocast=autocast))) for autocast in (False, True)
    )

    assert np.isfinite(state.history[-1].loss)
    assert state.weights()["head.weight"].dtype == torch.float32
    assert not np.array_equal(exact, cast)
    assert np.allclose(exact, cast, atol=0.05)


def test_progress_of_a_resumed_training_counts_all_images():
    progress, interrupted = [], states(MUON)[1]
    states(
        MUON,
        resume=TrainState(interrupted.history, interrupted.tensors),
        on_progress=lambda *pair: progress.append(pair),
    )

    assert progress[0] == (7 * 32, 12 * 32)
    assert progress[-1] == (12 * 32, 12 * 32)


def test_state_that_is_not_finite_after_the_last_step_is_not_returned():
    """The loss is that before the only step."""
    train = {
        "epochs": 1,
        "batch_size": 96,
        "optimizer": {"lr": 1e30, "weight_decay": 1e30},
        "schedule": {"kind": "constant"},
    }
    message = (
        r"^the training has diverged: \S+ is not finite after epoch 1; .* Lower train\.optimizer\.lr .*another --run$"
    )
    with pytest.raises(TrainingError, match=message):
        states({"model": {"name": "tutorial_cnn"}, "train": train})


@pytest.mark.parametrize("name", ["model.head.weight", "ema.norm.running_var", "optimizer.sgd.0.momentum_buffer"])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_every_tensor_of_a_state_must_be_finite(name, value):
    tensors = {"num_updates": torch.tensor(3), "model.stem.bias": torch.ones(2), name: torch.tensor([1.0, value])}
    message = rf"the training has diverged: {re.escape(name)} is not finite after epoch 1; this state is not saved"
    with pytest.raises(TrainingError, match=message):
        TrainState([RECORD], tensors).check_finite()
    TrainState([RECORD], {**tensors, name: torch.ones(1)}).check_finite()


def test_epochs_before_a_divergence_are_returned(monkeypatch):
    start_phase, starts = Trainer.start_phase, []

    def diverge(trainer, phase):
        start_phase(trainer, phase)
        starts.append(phase)
        if len(starts) == 3:
            torch.nn.init.constant_(next(trainer.model.buffers()), torch.inf)

    monkeypatch.setattr(Trainer, "start_phase", diverge)
    training = train_fold(MemberConfig.model_validate(MUON), CIFAR10, IMAGES, LABELS, seed=5, machine=MACHINE)
    returned = [state.num_epochs for state in itertools.islice(training, 2)]

    assert returned == [1, 2]
    with pytest.raises(TrainingError, match=r"is not finite after epoch 3|the loss is nan at epoch 3"):
        next(training)


@pytest.mark.parametrize("mix", [{"mixup_alpha": 0.2}, {"cutmix_alpha": 1.0}])
def test_mixing_an_odd_number_of_images_leaves_one_out(mix, monkeypatch):
    sizes, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda t, batch, *rest: sizes.append(len(batch[0])) or step(t, batch, *rest))
    member = MemberConfig.model_validate({**MUON, "train": {"epochs": 2, "batch_size": 4096, **mix}})
    list(train_fold(member, CIFAR10, IMAGES[:33], LABELS[:33], seed=1, machine=MACHINE))

    assert sizes == [32, 32]


def test_parts_of_a_batch_add_up_to_its_gradients():
    member = {"model": {"name": "test_vit"}, "train": {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.01}}}
    whole = states(member)[-1].weights()
    for parts in (2, 3):
        split = states({**member, "train": {**member["train"], "accumulate": parts}})[-1].weights()
        assert all(torch.allclose(whole[name], split[name], atol=1e-5) for name in whole)


def test_clipped_gradients_change_the_weights_less():
    train = {
        "epochs": 1,
        "batch_size": 96,
        "optimizer": {"lr": 1.0, "momentum": 0, "nesterov": False, "weight_decay": 0},
    }
    schedule = {"kind": "constant"}
    changes = []
    for clip in (None, 1e-6):
        options = {**train, "clip_grad": clip, "schedule": schedule, "epochs": 2}
        first, last = (state.weights()["head.weight"].clone() for state in iterate({**MUON, "train": options}))
        changes.append(float((last - first).norm()))

    assert changes[1] < 1e-4 < changes[0]


def test_frozen_parts_keep_their_weights_and_statistics():
    member = {**FINE_TUNING, "train": {**FINE_TUNING["train"], "freeze": {"num_stages": 2, "head_only_epochs": 2}}}
    weights = [{name: value.clone() for name, value in state.weights().items()} for state in iterate(member)]

    def changed(before, after):
        names = [name for name in before if not torch.equal(before[name], after[name])]
        return {name for name in names if "num_batches_tracked" not in name}

    assert changed(weights[0], weights[1]) == {"classifier.weight", "classifier.bias"}
    later = changed(weights[1], weights[3])
    assert {"blocks.2.0.bn1.running_mean", "conv_head.weight"} <= later
    assert not any(name.startswith(("conv_stem", "bn1", "blocks.0")) for name in later)


def test_frozen_batch_norms_keep_their_statistics_and_train_their_scales():
    member = {**FINE_TUNING, "train": {**FINE_TUNING["train"], "freeze": {"batch_norms": True}}}
    first, *_, last = [{name: v.clone() for name, v in state.weights().items()} for state in iterate(member)]

    assert torch.equal(first["bn2.running_mean"], last["bn2.running_mean"])
    assert not torch.equal(first["bn2.weight"], last["bn2.weight"])


@pytest.mark.parametrize(
    ("model", "freeze", "message"),
    [
        (
            "test_efficientnet",
            {"num_stages": 99},
            r"train\.freeze\.num_stages: 99 freeze the whole model, .* stages",
        ),
        ("airbench94", {"num_stages": 1}, r"train\.freeze\.num_stages: Airbench does not define its layers"),
    ],
)
def test_freezing_that_is_not_possible_is_rejected(model, freeze, message):
    with pytest.raises(ConfigError, match=message):
        states({"model": {"name": model}, "train": {"epochs": 1, "freeze": freeze}})


def test_gpu_out_of_memory_names_what_to_reduce(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Airbench, "forward", fail)
    with pytest.raises(
        TrainingError, match=r"out of memory with batches of 32 images in 1 parts; set train\.accumulate=2"
    ):
        states(MUON)


def test_workers_end_when_the_training_is_closed_or_fails():
    training = train_fold(
        MemberConfig.model_validate(MUON), CIFAR10, IMAGES, LABELS, seed=5, machine=Machine(num_workers=2)
    )
    next(training)
    assert len(multiprocessing.active_children()) == 2
    training.close()
    assert multiprocessing.active_children() == []

    failing = {**MUON, "train": {**MUON["train"], "optimizer": {"lr": 1e30, "weight_decay": 0}}}
    with pytest.raises(TrainingError):
        states(failing, Machine(num_workers=2))
    assert multiprocessing.active_children() == []


def test_trained_weights_need_neither_a_download_nor_the_first_checkpoint(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", None)
    model, train = {"name": "test_resnet", "stem": "keep"}, {"epochs": 1, "batch_size": 32}
    weights = states({"model": model, "train": train})[-1].weights()
    for start in ({"pretrained": True}, {"weights": "/nowhere.pth"}):
        member = MemberConfig.model_validate({"model": model | start})
        assert same(dict(build_model(member, CIFAR10, CPU, weights)[0].state_dict()), weights)
