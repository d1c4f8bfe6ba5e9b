import pytest
import torch

from pipeline.config import OptimizerConfig, ScheduleConfig
from pipeline.learning.models import Airbench
from pipeline.learning.optim import lr_fraction, make_optimizers, set_learning_rates


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (
            {"kind": "triangle", "start": 0.2, "peak": 0.25, "end": 0.0},
            [0.2, 0.6, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
        ),
        (
            {"kind": "triangle", "start": 1.0, "peak": 0.0, "end": 0.0},
            [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8],
        ),
        ({"kind": "triangle", "start": 0.0, "peak": 0.5, "end": 0.5}, [0, 1 / 4, 1 / 2, 3 / 4, 1, 7 / 8, 3 / 4, 5 / 8]),
        ({"kind": "cosine", "start": 0.0, "peak": 0.0, "end": 0.0}, [1, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]),
        ({"kind": "constant"}, [1] * 8),
        ({"kind": "triangle", "start": 0.0, "peak": 1.0, "end": 0.0}, [step / 8 for step in range(8)]),
    ],
    ids=["triangle", "falling", "end above 0", "cosine", "constant", "rising"],
)
def test_the_rate_is_a_pure_function_of_the_step(schedule, table):
    config = ScheduleConfig(**schedule)

    assert [lr_fraction(step, 8, config) for step in range(8)] == pytest.approx(table, abs=1e-3)


def groups_of(config):
    model = Airbench(widths=(4, 5, 6))
    names = {id(weight): name for name, weight in model.named_parameters()}
    optimizers = make_optimizers(model, config)
    return optimizers, [
        (type(o).__name__, sorted(names[id(w)] for w in g["params"]), g["lr"], g["weight_decay"])
        for o in optimizers
        for g in o.param_groups
    ]


def test_biases_head_and_rest_have_their_own_rates_and_the_same_decay():
    config = OptimizerConfig(lr=0.1, weight_decay=0.01, norm_bias_lr_scale=64, head_lr_scale=2)
    _, groups = groups_of(config)
    by_rate = {round(lr, 6): (names, lr * decay) for _, names, lr, decay in groups}

    assert set(by_rate) == {6.4, 0.2, 0.1}
    assert by_rate[6.4][0][0] == "groups.0.norm1.bias"
    assert by_rate[6.4][0][-1] == "stem.bias"
    assert by_rate[0.2][0] == ["head.weight"]
    assert all("conv" in name for name in by_rate[0.1][0])
    assert [decay for _, decay in by_rate.values()] == pytest.approx([0.001] * 3)


def test_muon_takes_the_filters_and_nothing_else():
    optimizers, groups = groups_of(OptimizerConfig(muon={"lr": 0.2}))

    assert [type(o).__name__ for o in optimizers] == ["SGD", "NormalizedMuon"]
    (muon,) = [names for kind, names, *_ in groups if kind == "NormalizedMuon"]
    assert muon == sorted(f"groups.{g}.conv{c}.weight" for g in range(3) for c in (1, 2))


def test_rates_follow_the_fraction():
    optimizers, _ = groups_of(OptimizerConfig(lr=0.1, head_lr_scale=2, muon={"lr": 0.2}))
    set_learning_rates(optimizers, 0.5)

    assert {g["lr"] for o in optimizers for g in o.param_groups} == {0.05, 0.1}
    set_learning_rates(optimizers, 1.0)
    assert {g["lr"] for o in optimizers for g in o.param_groups} == {0.1, 0.2}


def test_muons_step_has_the_size_of_its_rate():
    """A whitened update turns every direction alike: its singular values are near 1."""
    torch.manual_seed(0)
    weight = torch.nn.Conv2d(16, 8, 3, bias=False)
    (muon,) = make_optimizers(weight, OptimizerConfig(muon={"lr": 0.1, "ns_steps": 5}))
    weight.weight.grad = torch.randn_like(weight.weight)
    normalized = weight.weight.detach() * 8**0.5 / weight.weight.detach().norm()
    muon.step()
    update = (weight.weight.detach() - normalized).reshape(8, -1) / 0.1

    assert torch.linalg.svdvals(update).min() > 0.5
    assert torch.linalg.svdvals(update).max() < 1.5
