import re
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.config_files import build_config, load_config
from pipeline.errors import ConfigError
from pipeline.tuning.space import load_space, parse_space

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SPACES = sorted((CONFIGS / "spaces").glob("*.yaml"))
CONFIG = build_config({"members": {"net": {"train": {"epochs": 4}}, "other": {}}}, "test")


def distribution(text):
    return parse_space(f"key: {text}", "space.yaml").distributions["key"]


def check(text, member="net"):
    parse_space(text, "space.yaml").check(CONFIG, member)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{low: 0.05, high: 0.5, log: true}", FloatDistribution(0.05, 0.5, log=True)),
        ("{low: 1e-5, high: 1e-3, log: true}", FloatDistribution(1e-5, 1e-3, log=True)),
        ("{low: 0, high: 0.3, step: 0.1}", FloatDistribution(0, 0.3, step=0.1)),
        ("{low: 0, high: 2.5}", FloatDistribution(0, 2.5)),
        ("{low: 4, high: 12, step: 1}", IntDistribution(4, 12)),
        ("{low: 4, high: 12, step: 4}", IntDistribution(4, 12, step=4)),
        ("{low: 16, high: 256, log: true}", IntDistribution(16, 256, log=True)),
        ("{low: 4, high: 12, log: false}", IntDistribution(4, 12)),
        ("{low: 4, high: 12, step: 0.5}", FloatDistribution(4, 12, step=0.5)),
        ("{low: 3, high: 3}", IntDistribution(3, 3)),
        ("[64, 128, 256]", CategoricalDistribution([64, 128, 256])),
        ("{choices: [linear, cosine]}", CategoricalDistribution(["linear", "cosine"])),
        ("[true, false]", CategoricalDistribution([True, False])),
        ("[null, 0.5]", CategoricalDistribution([None, 0.5])),
        ("[[4, 8], [8, 8]]", CategoricalDistribution(["[4, 8]", "[8, 8]"])),
    ],
)
def test_ranges_and_choices_become_distributions(text, expected):
    assert distribution(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{low: 1, high: 2, base: 10}", "unknown field 'base'; known here: low, high, step, log"),
        ("{low: 1, hihg: 2}", "unknown field 'hihg'; did you mean 'high'?"),
        ("{choices: [1], low: 1}", "unknown field 'low'; known here: choices"),
        ("{low: 1}", "high is missing, expected {low: "),
        ("{high: 1}", "low is missing, expected {low: "),
        ("{low: 2, high: 1}", "low 2 is above high 1; swap them"),
        ("{low: 0, high: 1.0, log: true}", "log needs a low above 0, found 0"),
        ("{low: 1, high: 4, step: 1, log: true}", "log and step exclude each other; remove one of them"),
        ("{low: 1, high: 4, step: 2}", "from low 1 to high 4 is not a whole number of steps of 2; change one of them"),
        ("{low: 1, high: 4, step: 0}", "step is 0, expected a number above 0"),
        ("{low: a, high: 4}", "low is 'a', expected a number"),
        ("{low: true, high: 4}", "low is True, expected a number"),
        ("{low: 1, high: .inf}", "high is inf, expected a number"),
        ("{low: 1, high: 4, step: null}", "step is None, expected a number"),
        ("{low: 1, high: 4, log: 3}", "log is 3, expected true or false"),
        ("[]", "found the choices [], expected a list, for example [64, 128, 256]"),
        ("{choices: 3}", "found the choices 3, expected a list, for example [64, 128, 256]"),
        ("[1, 2, 1]", "the choice 1 is there twice"),
        ("[2026-11-01]", "found the choice datetime.date(2026, 11, 1), expected numbers, texts, true, false or null"),
        ("0.1", "found 0.1, expected {low: "),
        ("null", "found None, expected {low: "),
    ],
)
def test_invalid_distribution_is_one_line_with_its_key(text, message):
    with pytest.raises(ConfigError) as raised:
        distribution(text)

    assert str(raised.value).startswith(f"space.yaml: key: {message}")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "space.yaml contains nothing, expected config keys, each with {low: "),
        ("{}", "space.yaml contains nothing, expected config keys, each with {low: "),
        ("[1]", "space.yaml contains a list, expected config keys, each with {low: "),
        ("a: [1]\na: [2]", "space.yaml: line 2: duplicate key 'a'"),
        ("a: [1", "space.yaml is not valid YAML: "),
        ("a.b: [1]\na.b.c: [1]", "space.yaml: a.b: it contains a.b.c, which is searched too; remove one of them"),
    ],
)
def test_invalid_file_is_one_line(text, message):
    with pytest.raises(ConfigError) as raised:
        parse_space(text, "space.yaml")

    assert str(raised.value).startswith(message)
    assert len(str(raised.value).splitlines()) == 1


def test_every_invalid_key_is_reported():
    with pytest.raises(ConfigError) as raised:
        parse_space("a: {low: 2, high: 1}\nb: [1]\nc: 3", "space.yaml")

    assert [line.split(":")[1].strip() for line in str(raised.value).splitlines()] == ["a", "c"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not UTF-8"])
def test_unreadable_file_is_one_line(tmp_path, content):
    path = tmp_path / "space.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^search space .*space\.yaml (does not exist|is not UTF-8 text)"):
        load_space(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "members.net.train.optimizer.lrr: {low: 0.1, high: 1.0}",
            "space.yaml: unknown key 'members.net.train.optimizer.lrr'; did you mean 'lr'?",
        ),
        ("member.net.train.epochs: [1]", "space.yaml: unknown key 'member'; did you mean 'members'?"),
        (
            "members.net.train.epochs: {low: 0, high: 4}",
            "space.yaml: members.net.train.epochs: Input should be greater than or equal to 1, found 0",
        ),
        (
            "members.net.train.label_smoothing: {low: 0, high: 1.0}",
            "space.yaml: members.net.train.label_smoothing: Input should be less than 1, found 1.0",
        ),
        (
            "members.net.train.schedule.kind: [linear, triangel]",
            "space.yaml: members.net.train.schedule.kind: Input should be 'linear', 'cosine' or 'constant', "
            "found 'triangel'",
        ),
        (
            "members.net.train.epochs: {low: 2.0, high: 4.0}",
            "space.yaml: members.net.train.epochs: Input should be a valid integer, got a number with a fractional "
            "part, found 3.2",
        ),
        (
            "members.nett.train.epochs: [1]",
            "space.yaml: members.nett.train.epochs: the config has no member 'nett', only net, other",
        ),
        (
            "members.other.train.epochs: [1]",
            "space.yaml: members.other.train.epochs: the search trains the member net alone; remove this key, or "
            "choose --member other",
        ),
        (
            "folds.num_folds: [3, 5]",
            "space.yaml: folds.num_folds: expected keys of the member that is trained, members.net.KEY; change the "
            "others by --set",
        ),
    ],
)
def test_key_or_value_that_the_config_rejects_is_one_line(text, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}[^\n]*$"):
        check(text)


def test_valid_space_passes_and_changes_nothing():
    before = CONFIG.to_yaml()
    check("members.net.train.optimizer.muon.lr: {low: 0.1, high: 1.0}\nmembers.net.train.epochs: {low: 1, high: 9}")
    check("members.other.train.epochs: [1]", member="other")

    assert CONFIG.to_yaml() == before


def test_suggested_values_are_in_the_space_and_make_a_config():
    space = parse_space(
        "members.net.train.optimizer.lr: {low: 0.1, high: 1.0, log: true}\n"
        "members.net.train.epochs: {low: 2, high: 8, step: 2}\n"
        "members.net.model.params.widths: [[4, 8], [8, 8]]\n"
        "members.net.train.label_smoothing: {low: 0.0, high: 0.2, step: 0.1}\n",
        "space.yaml",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(5):
        trial = study.ask()
        values = space.suggest(trial)
        member = space.apply(CONFIG, values).members["net"]

        assert values == trial.params
        assert 0.1 <= member.train.optimizer.lr <= 1
        assert member.train.epochs in (2, 4, 6, 8)
        assert member.model.params["widths"] in ([4, 8], [8, 8])
        assert any(member.train.label_smoothing == pytest.approx(value) for value in (0, 0.1, 0.2))
        assert space.apply(CONFIG, values).members["other"] == CONFIG.members["other"]


@pytest.mark.parametrize(
    ("key", "space", "expected"),
    [
        ("train.epochs", "{low: 2, high: 8, step: 2}", 4),
        ("train.epochs", "{low: 1, high: 9, step: 2}", None),
        ("train.epochs", "{low: 5, high: 9}", None),
        ("train.epochs", "[2, 4]", 4),
        ("train.label_smoothing", "{low: 0.0, high: 0.3, step: 0.1}", 0.2),
        ("train.label_smoothing", "{low: 0.05, high: 0.35, step: 0.1}", None),
        ("train.whiten_bias_epochs", "[null, 3]", 3),
        ("train.alternative", "[1, 2]", None),
        ("model.params.widths", "[[4, 8], [8, 8]]", "[4, 8]"),
        ("model.params.widths", "[[8, 8]]", None),
        ("model.params.depth.of", "[1, 2]", None),
        ("alternating_flip", "{low: 0, high: 2}", None),
    ],
)
def test_own_value_of_a_config_is_one_of_the_space_or_missing(key, space, expected):
    net = {"model": {"params": {"widths": [4, 8], "depth": 2}}, "alternating_flip": True}
    net["train"] = {"epochs": 4, "label_smoothing": 0.2, "whiten_bias_epochs": 3}
    config = build_config({"members": {"net": net}}, "test")
    values = parse_space(f"members.net.{key}: {space}", "space.yaml").values_of(config)

    assert values == ({} if expected is None else {f"members.net.{key}": expected})


def test_text_that_only_looks_like_json_stays_a_text():
    space = parse_space("members.net.model.name: ['[no json', plain]", "space.yaml")

    assert space.apply(CONFIG, {"members.net.model.name": "[no json"}).members["net"].model.name == "[no json"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_our_spaces_fit_the_config_of_the_same_name_and_state_their_command(path):
    config = load_config(CONFIGS / path.name)
    load_space(path).check(config, next(iter(config.members)))
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]

    assert any(f"python run.py tune --config configs/{path.name} --space configs/spaces/{path.name}" in x for x in head)
    assert any("minute" in line for line in head)


def test_there_is_a_space():
    assert SPACES
