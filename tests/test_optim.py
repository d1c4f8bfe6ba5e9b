import pytest
import timm
import torch
from timm.optim import list_optimizers
from torch import nn

from pipeline.errors import ConfigError
from pipeline.learning.airbench import Airbench
from pipeline.learning.optim import (
    learning_rates,
    load_optimizer,
    lr_scale,
    make_optimizers,
    optimizer_tensors,
    set_learning_rates,
)
from pipeline.member_config import OptimizerConfig, ScheduleConfig


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (
            {"kind": "linear", "start_factor": 0.2, "warmup_fraction": 0.25, "end_factor": 0.0},
            [0.2, 0.6, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
        ),
        (
            {"kind": "linear", "start_factor": 1.0, "warmup_fraction": 0.0, "end_factor": 0.0},
            [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8],
        ),
        (
            {"kind": "linear", "start_factor": 0.0, "warmup_fraction": 0.5, "end_factor": 0.5},
            [0, 1 / 4, 1 / 2, 3 / 4, 1, 7 / 8, 3 / 4, 5 / 8],
        ),
        (
            {"kind": "cosine", "start_factor": 0.0, "warmup_fraction": 0.0, "end_factor": 0.0},
            [1, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038],
        ),
        ({"kind": "constant"}, [1] * 8),
        (
            {"kind": "linear", "start_factor": 0.0, "warmup_fraction": 1.0, "end_factor": 0.0},
            [step / 8 for step in range(8)],
        ),
    ],
    ids=["linear", "falling", "end above 0", "cosine", "constant", "rising"],
)
def test_schedule_is_a_pure_function_of_the_step(schedule, table):
    config = ScheduleConfig(**schedule)

    assert [lr_scale(step, 8, config) for step in range(8)] == pytest.approx(table, abs=1e-3)


def groups_of(config):
    model = Airbench(num_classes=10, widths=(4, 5, 6), depth=2)
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizers = make_optimizers(model, config)
    return optimizers, [
        (type(o).__name__, sorted(names[p] for p in g["params"]), g["lr"], g["weight_decay"])
        for o in optimizers.values()
        for g in o.param_groups
    ]


def test_norm_biases_and_head_have_scaled_rates_and_the_same_decay():
    config = OptimizerConfig(lr=0.1, weight_decay=0.01, norm_bias_lr_scale=64, head_lr_scale=2)
    _, groups = groups_of(config)
    by_rate = {round(lr, 6): (names, lr * decay) for _, names, lr, decay in groups}

    assert set(by_rate) == {6.4, 0.2, 0.1}
    assert by_rate[6.4][0][0] == "groups.0.norm1.bias"
    assert by_rate[6.4][0][-1] == "stem.bias"
    assert by_rate[0.2][0] == ["head.weight"]
    assert all("conv" in name for name in by_rate[0.1][0])
    assert [decay for _, decay in by_rate.values()] == pytest.approx([0.001] * 3)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", ["fc.weight", "fc.bias"]),
        ("densenet121", ["classifier.weight", "classifier.bias"]),
        ("convnext_atto", ["head.fc.weight", "head.fc.bias"]),
        ("deit_tiny_distilled_patch16_224", ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]),
    ],
)
def test_head_is_the_classifier_of_any_timm_model(name, head):
    model = timm.create_model(name, num_classes=5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_optimizers(model, OptimizerConfig(lr=0.1, head_lr_scale=2))["sgd"].param_groups

    assert [[names[p] for p in group["params"]] for group in groups if group["lr"] == 0.2] == [head]


def test_muon_gets_only_the_convolutions():
    optimizers, groups = groups_of(OptimizerConfig(muon={"lr": 0.2}))

    assert {name: type(o).__name__ for name, o in optimizers.items()} == {"sgd": "SGD", "muon": "NormalizedMuon"}
    (muon,) = [names for optimizer, names, *_ in groups if optimizer == "NormalizedMuon"]
    assert muon == sorted(f"groups.{g}.conv{c}.weight" for g in range(3) for c in (1, 2))


def test_learning_rates_are_the_peaks_times_the_scale():
    optimizers, _ = groups_of(OptimizerConfig(lr=0.1, head_lr_scale=2, muon={"lr": 0.2}))
    set_learning_rates(optimizers, 0.5)

    assert {g["lr"] for o in optimizers.values() for g in o.param_groups} == {0.05, 0.1}
    assert learning_rates(optimizers) == {"sgd": 0.05, "muon": 0.1}
    set_learning_rates(optimizers, 1.0)
    assert {g["lr"] for o in optimizers.values() for g in o.param_groups} == {0.1, 0.2}
    assert learning_rates(optimizers) == {"sgd": 0.1, "muon": 0.2}


def test_muon_step_has_the_size_of_its_learning_rate():
    """The update is nearly orthogonal: its singular values are near 1."""
    torch.manual_seed(0)
    weight = torch.nn.Conv2d(16, 8, 3, bias=False)
    muon = make_optimizers(weight, OptimizerConfig(muon={"lr": 0.1, "ns_steps": 5}))["muon"]
    weight.weight.grad = torch.randn_like(weight.weight)
    normalized = weight.weight.detach() * 8**0.5 / weight.weight.detach().norm()
    muon.step()
    update = (weight.weight.detach() - normalized).reshape(8, -1) / 0.1

    assert torch.linalg.svdvals(update).min() > 0.5
    assert torch.linalg.svdvals(update).max() < 1.5


def test_muon_uses_the_configured_newton_schulz_coefficients():
    a, b, c = 3.4445, -4.7750, 2.0315  # airbench94_muon
    torch.manual_seed(0)
    weight = torch.nn.Linear(16, 8, bias=False)
    config = {"lr": 0.1, "ns_steps": 3, "ns_coefficients": "original", "normalize_filters": False}
    muon = make_optimizers(weight, OptimizerConfig(muon=config))["muon"]
    weight.weight.grad = torch.randn_like(weight.weight)
    before = weight.weight.detach().clone()
    singular_values = torch.linalg.svdvals(weight.weight.grad) / weight.weight.grad.norm()
    for _ in range(3):
        singular_values = a * singular_values + b * singular_values**3 + c * singular_values**5
    muon.step()

    update = (before - weight.weight.detach()) / 0.1
    # In bf16.
    assert torch.linalg.svdvals(update).tolist() == pytest.approx(
        sorted(singular_values.tolist(), reverse=True), abs=0.03
    )


X, Y = torch.randn(6, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24).reshape(6, 4) % 10


class SmallNet(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10)
        )

    def run(self, optimizers, steps):
        for step in steps:
            nn.functional.cross_entropy(self(X[step]), Y[step]).backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad()


def usable_optimizers():
    unusable = ("bnb", "fused", "kron", "adahessian")
    return [name for name in list_optimizers() if not name.startswith(unusable)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", usable_optimizers())
def test_every_optimizer_of_timm_resumes_to_the_same_bytes(name):
    config = OptimizerConfig(name=name, lr=0.01)
    whole, resumed = SmallNet(), SmallNet()
    optimizers = make_optimizers(whole, config)
    whole.run(optimizers, range(3))
    saved = {
        key: {name: tensor.clone() for name, tensor in optimizer_tensors(each, "").items()}
        for key, each in optimizers.items()
    }
    resumed.load_state_dict(whole.state_dict())
    whole.run(optimizers, range(3, 6))
    others = make_optimizers(resumed, config)
    for key, tensors in saved.items():
        load_optimizer(others[key], tensors)
    resumed.run(others, range(3, 6))

    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adamq"}, r"train\.optimizer\.name: unknown optimizer 'adamq'; did you mean adam"),
        ({"name": "nothing"}, r"train\.optimizer\.name: unknown optimizer 'nothing', expected one of timm\.optim"),
        ({"name": "fusedadam"}, r"train\.optimizer: fusedadam can't be created with these values"),
        ({"name": "adamw", "params": {"speed": 3}}, r"train\.optimizer: adamw can't be created with \{'speed': 3\}"),
        ({"name": "adamw", "params": {"betas": [2, 3]}}, r"train\.optimizer: adamw can't be created with .*beta"),
        ({"name": "adahessian"}, r"train\.optimizer\.name: adahessian needs second derivatives"),
        ({"layer_decay": 0.7}, r"train\.optimizer\.layer_decay: SmallNet does not define its layers"),
    ],
)
def test_unusable_optimizer_is_rejected(config, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_optimizers(SmallNet(), OptimizerConfig.model_validate(config))


def test_state_that_cannot_be_saved_is_rejected():
    optimizer = torch.optim.SGD([parameter := torch.nn.Parameter(torch.zeros(1))])
    optimizer.state[parameter] = {"Q": []}  # as in timm's kron, whose step takes 20 s

    with pytest.raises(ConfigError, match=r"the state of SGD can't be saved, as 0\.Q is a list; choose another"):
        optimizer_tensors(optimizer, "")


def test_muon_takes_dense_convolutions_and_matrices_without_the_classifier():
    model = timm.create_model("test_efficientnet", num_classes=10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizers = make_optimizers(model, OptimizerConfig(muon={}))
    taken = {names[id(parameter)] for group in optimizers["muon"].param_groups for parameter in group["params"]}

    assert "conv_stem.weight" in taken
    assert not any("conv_dw" in name or "bn" in name or "classifier" in name for name in taken)
    vit = make_optimizers(timm.create_model("test_vit", num_classes=10), OptimizerConfig(muon={}))
    assert {parameter.ndim for group in vit["muon"].param_groups for parameter in group["params"]} == {2, 4}


def test_layer_decay_lowers_the_rates_towards_the_input():
    model = timm.create_model("test_vit", num_classes=10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    config = OptimizerConfig(name="adamw", lr=1.0, layer_decay=0.5, head_lr_scale=3, decay_norms_and_biases=False)
    (optimizer,) = make_optimizers(model, config).values()
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    num_blocks = len(model.blocks)

    assert rates["head.weight"] == (3.0, pytest.approx(5e-4 / 3))
    assert rates["head.bias"] == (3.0, 0)
    assert rates[f"blocks.{num_blocks - 1}.mlp.fc1.weight"][0] == 0.5
    assert rates["blocks.0.mlp.fc1.weight"][0] == 0.5**num_blocks
    assert rates["patch_embed.proj.weight"] == (0.5 ** (num_blocks + 1), 5e-4)
    assert rates["pos_embed"][1] == 0
