import json
import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import Config
from pipeline.config_files import build_config, differences, load_config, override_config
from pipeline.errors import ConfigError
from pipeline.member_config import TrainConfig

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_round_trips_through_yaml(path):
    config = load_config(path)

    assert build_config(yaml.safe_load(config.to_yaml()), "test") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_states_its_command_time_and_accuracy(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]

    assert any("python run.py" in line for line in head)
    assert any("minute" in line for line in head)
    assert any("accuracy" in line for line in head)


def test_overrides_set_nested_keys():
    config = build_config({}, "test", ["folds.num_folds=3", "members.airbench94.train.optimizer.muon={lr: 0.1}"])

    assert config.folds.num_folds == 3
    assert config.members["airbench94"].train.optimizer.muon.lr == 0.1
    assert override_config(config, ["seed=7"]).seed == 7
    assert override_config(config, ["seed=7"]).folds == config.folds


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"fold": {"num_folds": 3}}, r"unknown key 'fold'; did you mean 'folds'\?"),
        ({"folds": {"numfolds": 3}}, r"unknown key 'folds.numfolds'; did you mean 'num_folds'\?"),
        (
            {"members": {"a": {"train": {"optimizer": {"muon": {"learning_rate": 1}}}}}},
            r"unknown key 'members.a.train.optimizer.muon.learning_rate'; known here: lr, momentum",
        ),
        ({"members": {"train": {"augmen": []}}}, r"'members.train.augmen'; did you mean 'augment'\?"),
        ({"fold": {"predict": {"views": "mirror"}}}, r"unknown key 'fold'; did you mean 'folds'\?$"),
        ({"members": {"a": {"train": {"epoch": 3}}}}, r"'members.a.train.epoch'; did you mean 'epochs'\?"),
        ({"folds": {"num_folds": 1}}, r"folds.num_folds: Input should be greater than or equal to 2, found 1"),
        ({"folds": {"num_folds": "many"}}, r"folds.num_folds: .* found 'many'"),
        ({"members": {"a": {"train": {"optimizer": {"lr": -1}}}}}, r"train.optimizer.lr: .*greater than 0, found -1"),
        ({"members": {"a": {"train": {"optimizer": {"lr": float("nan")}}}}}, r"optimizer.lr: .* found nan"),
        ({"members": {}}, r"members: "),
        ({"members": {"../evil": {}}}, r"members.../evil"),
        ({"predict": {"tta": "all"}}, r"predict.tta: Input should be 'none', 'flip' or 'flip_translate', found 'all'$"),
        (
            {"members": {"a": {"augment": [{"name": "Pad", "params": {}}]}}},
            r"augment.0: Pad has no p; set its probability",
        ),
        ({"members": {"a": {"train": {"mixup_alpha": 1, "batch_size": 5}}}}, r"batch_size 5 must be even"),
        (
            {
                "members": {
                    "a": {"train": {"progressive_resizing": [{"until": 0.5, "size": 24}, {"until": 0.4, "size": 28}]}}
                }
            },
            r"progressive_resizing end at \[0\.5, 0\.4\], expected rising fractions",
        ),
        ({"members": {"a": {"train": {"optimizer": {"momentum": 0}}}}}, r"nesterov needs a momentum above 0"),
        (
            {
                "members": {"a": {"head": "linear", "model": {"name": "resnet18", "pretrained": True}}},
                "refit": {"models": 2},
            },
            r"refit.models is 2, but all refits of a would be the same",
        ),
        ({"folds": {"train": [1, 0]}}, r"folds.train is \[1, 0\], expected different folds in ascending order"),
        ({"folds": {"train": [0, 0]}}, r"folds.train is \[0, 0\], expected different folds in ascending order"),
        (
            {"folds": {"num_folds": 3, "train": [3]}},
            r"folds.train is \[3\], expected folds from 0 to 2, as there are 3",
        ),
        ({"folds": {"train": []}}, r"folds.train"),
    ],
)
def test_config_error_names_the_key(tree, message):
    with pytest.raises(ConfigError, match=message):
        build_config(tree, "config.yaml")


MEMBER = "members.airbench94"


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        (f"{MEMBER}.alternate_mirror", True, f"{MEMBER}.alternating_flip"),
        (f"{MEMBER}.train.image_sizes", [{"until": 0.5, "size": 24}], f"{MEMBER}.train.progressive_resizing"),
        (f"{MEMBER}.train.schedule.start", 0.1, f"{MEMBER}.train.schedule.start_factor"),
        (f"{MEMBER}.train.schedule.peak", 0.1, f"{MEMBER}.train.schedule.warmup_fraction"),
        (f"{MEMBER}.train.schedule.end", 0.1, f"{MEMBER}.train.schedule.end_factor"),
        (f"{MEMBER}.train.optimizer.muon.num_iterations", 5, f"{MEMBER}.train.optimizer.muon.ns_steps"),
        ("predict.views", "mirror", "predict.tta"),
        ("predict.selective", None, "predict.cascade"),
        ("predict.cascade.max_loss", 0.001, "predict.cascade.max_accuracy_drop"),
        ("predict.cascade.max_passes", 4, "predict.cascade.max_forward_passes"),
        ("predict.cascade.sample", 100, "predict.cascade.calibration_size"),
        ("predict.selective.max_loss", 0.001, "predict.cascade.max_accuracy_drop"),
        ("predict.selective.max_passes", 4, "predict.cascade.max_forward_passes"),
        ("predict.selective.sample", 100, "predict.cascade.calibration_size"),
        ("machine.predict_batch", 64, "machine.predict_batch_size"),
    ],
)
def test_old_key_is_an_error_that_names_the_new_one(old, value, new):
    tree = value
    for part in reversed(old.split(".")):
        tree = {part: tree}
    message = re.escape(f"unknown key '{old}'; it is now '{new}'")

    with pytest.raises(ConfigError, match=rf"(?m)^config\.yaml: {message}"):
        build_config(tree, "config.yaml")
    with pytest.raises(ConfigError, match=rf"(?m)^--set: {message}"):
        override_config(Config(), [f"{old}={json.dumps(value)}"])


def test_all_renamed_keys_of_a_renamed_section_are_listed():
    with pytest.raises(ConfigError) as raised:
        build_config({"predict": {"selective": {"max_loss": 0.1, "sample": 100}}}, "config.yaml")

    assert str(raised.value).splitlines() == [
        "config.yaml: unknown key 'predict.selective'; it is now 'predict.cascade'",
        "config.yaml: unknown key 'predict.selective.max_loss'; it is now 'predict.cascade.max_accuracy_drop'",
        "config.yaml: unknown key 'predict.selective.sample'; it is now 'predict.cascade.calibration_size'",
    ]


def test_old_key_error_names_the_new_values():
    with pytest.raises(ConfigError) as raised:
        build_config({"predict": {"views": "mirror"}}, "config.yaml")

    assert str(raised.value) == (
        "config.yaml: unknown key 'predict.views'; it is now 'predict.tta', "
        "with the values none (was identity), flip (was mirror), flip_translate (was mirror_shift)"
    )


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        (f"{MEMBER}.train.schedule.kind", "triangle", "linear"),
        ("predict.tta", "identity", "none"),
        ("predict.tta", "mirror", "flip"),
        ("predict.tta", "mirror_shift", "flip_translate"),
    ],
)
def test_old_value_is_an_error_that_names_the_new_one(key, old, new):
    with pytest.raises(ConfigError, match=rf"^--set: {key}: .*, found '{old}'; '{old}' is now '{new}'$"):
        override_config(Config(), [f"{key}={old}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", r"config\.yaml: line 2: duplicate key 'seed'"),
        ("seed: [1\n", r"config\.yaml is not valid YAML"),
        ("- 1\n", r"contains a list, expected keys such as seed"),
        (
            "seed: !!python/object/apply:os.getpid []\n",
            r"config\.yaml is not valid YAML: could not determine a constructor",
        ),
    ],
)
def test_invalid_config_file_is_rejected_with_the_reason(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)

    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "config.yaml")


def test_missing_config_error_lists_the_configs_in_its_folder(tmp_path):
    (tmp_path / "other.yaml").write_text("")

    with pytest.raises(ConfigError, match=r"config .*config\.yaml does not exist; .* has other\.yaml"):
        load_config(tmp_path / "config.yaml")


def test_override_of_a_member_that_does_not_exist_is_rejected_with_the_members():
    config = override_config(Config(), ["members.airbench94.train.epochs=3"])

    with pytest.raises(
        ConfigError, match=r"^--set members\.net\.train\.epochs: the config has no member 'net', only air"
    ):
        override_config(config, ["members.net.train.epochs=3"])
    both = override_config(config, ["members.net={train: {epochs: 2}}", "members.net.train.batch_size=8"])
    assert {name: member.train.epochs for name, member in both.members.items()} == {"airbench94": 3, "net": 2}
    assert both.members["net"].train.batch_size == 8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("metrics.json",), "'metrics.json' looks like a file of the run; choose a name without the ending"),
        (("Report.HTML",), "'Report.HTML' looks like a file of the run"),
        (("net", "Net"), "'net' has the name of another member but for capitals"),
    ],
)
def test_member_that_could_not_have_a_folder_of_its_own_is_rejected(names, message):
    with pytest.raises(ConfigError, match=rf"members: .*{message}"):
        build_config({"members": {name: {} for name in names}}, "config")


def test_override_without_a_value_is_rejected():
    with pytest.raises(ConfigError, match=r"--set 'folds\.num_folds': expected key\.sub=value"):
        build_config({}, "x", ["folds.num_folds"])


def test_differences_list_each_changed_leaf():
    assert differences({"a": {"b": 1}, "c": [1]}, {"a": {"b": 2}, "c": [1, 3]}) == [
        "a.b: 1 -> 2",
        "c.1: not set -> 3",
    ]


def test_experiment_excludes_paths_and_hardware_settings():
    base = Config()

    assert (
        override_config(base, ["machine.num_workers=2", "images.cache_dir=/elsewhere"]).experiment()
        == base.experiment()
    )
    assert override_config(base, ["seed=1"]).experiment() != base.experiment()


def test_config_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 2


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("members.airbench94.train.epochs", 10**9, 100_000),
        ("members.airbench94.train.batch_size", 10**9, 65536),
        ("machine.predict_batch_size", 10**9, 65536),
        ("predict.cascade.max_forward_passes", 1e300, 1_000_000),
    ],
)
def test_value_that_no_machine_can_use_is_rejected(key, value, limit):
    with pytest.raises(ConfigError, match=rf"--set: {key}: Input should be less than or equal to {limit}, found "):
        override_config(Config(), [f"{key}={value}"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.params", "{widths: [64, 1000000000, 8]}", r"widths is 1000000000, expected numbers up to 4,096"),
        ("model.params", "{depth: -5000}", r"depth is -5000, expected numbers up to 4,096"),
        ("model.params", "{a: {b: [{c: .nan}]}}", r"a is nan, expected numbers up to 4,096"),
        ("model.params", "{mlp_ratio: .inf}", r"mlp_ratio is inf, expected numbers up to 4,096"),
        (
            "augment",
            "[{name: Pad, params: {padding: 100000, p: 1}}]",
            r"padding is 100000, expected numbers up to 1,024",
        ),
    ],
)
def test_number_in_params_that_would_take_all_memory_is_rejected(key, value, message):
    with pytest.raises(ConfigError, match=rf"--set: {MEMBER}\.{key}.*: {message}$"):
        override_config(Config(), [f"{MEMBER}.{key}={value}"])


@pytest.mark.parametrize("key", ["images.cache_dir", "machine.shared_dir"])
def test_tilde_in_a_path_is_the_home_folder(key, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    section, name = key.split(".")
    for text, expected in (("~/x", tmp_path / "x"), ("a/~/x", Path("a/~/x")), ("null", None)):
        assert getattr(getattr(override_config(Config(), [f"{key}={text}"]), section), name) == expected


def test_path_without_a_meaning_is_rejected():
    with pytest.raises(
        ConfigError, match=r"images\.cache_dir: .*; write the whole path instead of ~, found '~no_such_us"
    ):
        override_config(Config(), ["images.cache_dir=~no_such_user/x"])
    with pytest.raises(ConfigError, match=r"images\.cache_dir: a path can't contain a null character"):
        override_config(Config(), ['images.cache_dir="a\\0b"'])


@pytest.mark.parametrize(
    ("batch_size", "alpha", "num_images", "expected"),
    [(4096, 0.2, 133, 132), (4096, 0.0, 133, 133), (64, 0.2, 133, 64), (5, 0.0, 133, 5)],
)
def test_batch_size_is_at_most_the_number_of_images_and_even_for_mixup(batch_size, alpha, num_images, expected):
    config = TrainConfig(batch_size=batch_size, cutmix_alpha=alpha)

    assert config.actual_batch_size(num_images) == expected


@pytest.mark.parametrize(("text", "expected"), [("on", "on"), ("off", "off"), ("true", "on"), ("auto", "auto")])
def test_on_and_off_are_names_where_a_key_has_them_as_values(text, expected):
    assert override_config(Config(), [f"machine.compile={text}"]).machine.compile == expected


@pytest.mark.parametrize("key", ["folds.num_folds", "seed", "members.airbench94.train.label_smoothing"])
def test_boolean_in_the_place_of_a_number_is_rejected(key):
    with pytest.raises(ConfigError, match=rf"{key}: expected a number, found True"):
        override_config(Config(), [f"{key}=yes"])


@pytest.mark.parametrize("text", ["1e-1", "1.0e-1", "0.1"])
def test_number_with_an_exponent_needs_no_point(text):
    augment = f"members.airbench94.augment=[{{name: HorizontalFlip, params: {{p: {text}}}}}]"

    assert override_config(Config(), [augment]).members["airbench94"].augment[0].params["p"] == 0.1


def test_config_in_another_encoding_is_rejected_with_what_to_do(tmp_path):
    path = tmp_path / "utf16.yaml"
    path.write_text("seed: 1\n", encoding="utf-16")

    with pytest.raises(ConfigError, match=r"utf16\.yaml is not UTF-8 text; save it as UTF-8$"):
        load_config(path)
