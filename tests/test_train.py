import itertools
import shutil

import numpy as np
import pytest
import torch

from pipeline.demo.images import draw_image
from pipeline.config import MemberConfig
from pipeline.errors import TrainingError
from pipeline.learning.device import Machine
from pipeline.learning.models import Airbench
from pipeline.learning.predict import predict
from pipeline.learning.train import TrainState, build_model, train_fold

CLASSES = np.arange(96) % 10
IMAGES = np.stack([draw_image(int(kind), np.random.default_rng(i)) for i, kind in enumerate(CLASSES)])
CPU = torch.device("cpu")
MACHINE = Machine()

MUON = {
    "model": {"name": "airbench94", "params": {"widths": [4, 8, 8]}},
    "augment": [{"name": "HorizontalFlip", "params": {"p": 0.5}}],
    "train": {"epochs": 4, "batch_size": 32, "label_smoothing": 0.1, "optimizer": {"muon": {"lr": 0.1}}},
}
EMA_AND_MIXES = {
    "model": {"name": "test_resnet", "params": {"drop_rate": 0.2}},
    "train": {"epochs": 4, "batch_size": 32, "ema_decay": 0.9, "mixup_alpha": 0.5, "cutmix_alpha": 1.0},
}
GROWING = {**MUON, "alternating_flip": True, "train": {**MUON["train"], "progressive_resizing": [{"until": 0.5, "size": 24}]}}
FREEZING = {**MUON, "train": {**MUON["train"], "whiten_bias_epochs": 2}}


def states(member, machine=MACHINE, **options):
    return list(train_fold(MemberConfig.model_validate(member), IMAGES, CLASSES, seed=5, machine=machine, **options))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "member", [MUON, EMA_AND_MIXES, FREEZING, GROWING], ids=["muon", "ema+mixup+cutmix+dropout", "freezing", "growing"]
)
def test_a_resumed_training_ends_with_the_same_bytes(member):
    whole = states(member)
    began = list(
        itertools.islice(train_fold(MemberConfig.model_validate(member), IMAGES, CLASSES, seed=5, machine=MACHINE), 2)
    )
    torch.manual_seed(12345)
    resumed = states(member, resume=TrainState(began[-1].history, dict(began[-1].tensors)))

    assert [state.num_epochs for state in resumed] == [3, 4]
    assert same(whole[-1].tensors, resumed[-1].tensors)
    assert same(whole[-1].weights(), resumed[-1].weights())


def test_workers_do_not_change_a_weight():
    with_workers = states(MUON, Machine(num_workers=2))

    assert same(states(MUON)[-1].tensors, with_workers[-1].tensors)


def test_another_seed_gives_other_weights():
    member = MemberConfig.model_validate(MUON)
    one, other = (
        list(train_fold(member, IMAGES, CLASSES, seed=seed, machine=MACHINE))[-1].weights() for seed in (1, 2)
    )

    assert not same(one, other)


def test_one_step_lowers_the_loss_on_its_batch():
    member = {**MUON, "augment": [], "train": {**MUON["train"], "epochs": 12, "batch_size": 96}}
    history = states(member)[-1].history

    assert history[-1].loss < history[0].loss - 0.15
    assert history[-1].accuracy > history[0].accuracy
    assert [record.epoch for record in history] == list(range(1, 13))
    assert all(record.images_per_second > 0 for record in history)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched():
    member = {**MUON, "train": {**MUON["train"], "optimizer": {"lr": 1e30, "weight_decay": 0}}}
    kept = []

    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at epoch \d, step \d of 3; .* Lower train\.optim"):
        kept.extend(train_fold(MemberConfig.model_validate(member), IMAGES, CLASSES, seed=5, machine=MACHINE))


def test_the_whitening_sees_the_images_of_the_fold_alone():
    member = MemberConfig.model_validate(MUON)
    one = next(train_fold(member, IMAGES, CLASSES, seed=5, machine=MACHINE)).weights()["stem.weight"]
    other = next(train_fold(member, 255 - IMAGES // 2, CLASSES, seed=5, machine=MACHINE)).weights()["stem.weight"]

    assert not torch.allclose(one.abs(), other.abs(), rtol=0.01)


def test_a_frozen_whitening_bias_stays():
    biases = [state.tensors["model.stem.bias"] for state in states(FREEZING)]

    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(biases[1], biases[3])


def test_pictures_grow_as_the_recipe_says(monkeypatch):
    seen = []
    forward = Airbench.forward
    monkeypatch.setattr(Airbench, "forward", lambda net, x: seen.append(tuple(x.shape[-2:])) or forward(net, x))
    states(GROWING)

    assert seen == [(24, 24)] * 6 + [(32, 32)] * 6


def test_the_average_of_the_weights_is_what_predicts():
    state = states(EMA_AND_MIXES)[-1]

    assert torch.equal(state.weights()["conv1.weight"], state.tensors["ema.conv1.weight"])
    assert not torch.equal(state.tensors["ema.conv1.weight"], state.tensors["model.conv1.weight"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_net_is_compiled_once_for_all_folds_and_learns_the_same():
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
    machine = Machine(autocast=True)
    state = states(MUON, machine)[-1]
    model = build_model(MemberConfig.model_validate(MUON), CPU, state.weights())
    exact, cast = (predict(model, IMAGES, "mirror", Machine(autocast=autocast)) for autocast in (False, True))

    assert np.isfinite(state.history[-1].loss)
    assert state.weights()["head.weight"].dtype == torch.float32
    assert not np.array_equal(exact, cast)
    assert np.allclose(exact, cast, atol=0.05)


def test_progress_counts_to_the_end_also_after_a_stop():
    heard = []
    began = states(MUON)[1]
    states(MUON, resume=TrainState(began.history, began.tensors), on_images=lambda *pair: heard.append(pair))

    assert heard[0] == (7 * 32, 12 * 32)
    assert heard[-1] == (12 * 32, 12 * 32)
