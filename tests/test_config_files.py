from pathlib import Path

import pytest
import yaml

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.config_files import build_config, differences, load_config, override_config

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_its_own_yaml(path):
    config = load_config(path)

    assert build_config(yaml.safe_load(config.to_yaml()), "again") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_opens_with_its_command_time_and_accuracy(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]

    assert any("python run.py" in line for line in head)
    assert any("minute" in line for line in head)
    assert any("accuracy" in line for line in head)


def test_overrides_reach_the_depths():
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
        ({"members": {"a": {"train": {"epoch": 3}}}}, r"'members.a.train.epoch'; did you mean 'epochs'\?"),
        ({"folds": {"num_folds": 1}}, r"folds.num_folds: Input should be greater than or equal to 2, found 1"),
        ({"folds": {"num_folds": "many"}}, r"folds.num_folds: .* found 'many'"),
        ({"members": {"a": {"train": {"optimizer": {"lr": -1}}}}}, r"train.optimizer.lr: .*greater than 0, found -1"),
        ({"members": {"a": {"train": {"optimizer": {"lr": float("nan")}}}}}, r"optimizer.lr: .* found nan"),
        ({"members": {}}, r"members: "),
        ({"members": {"../evil": {}}}, r"members.../evil"),
        ({"predict": {"views": "all"}}, r"predict.views: Input should be 'identity', 'mirror' or 'mirror_shift'"),
        ({"members": {"a": {"augment": [{"name": "Pad", "params": {}}]}}}, r"augment.0: Pad has no p; write its prob"),
        ({"members": {"a": {"train": {"mixup_alpha": 1, "batch_size": 5}}}}, r"batch_size 5 must be even"),
        (
            {"members": {"a": {"train": {"progressive_resizing": [{"until": 0.5, "size": 24}, {"until": 0.4, "size": 28}]}}}},
            r"progressive_resizing end at \[0\.5, 0\.4\], expected rising shares",
        ),
        ({"members": {"a": {"train": {"optimizer": {"momentum": 0}}}}}, r"nesterov needs a momentum above 0"),
    ],
)
def test_a_faulty_recipe_names_the_key(tree, message):
    with pytest.raises(ConfigError, match=message):
        build_config(tree, "recipe.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", r"recipe\.yaml: line 2: the key 'seed' stands twice"),
        ("seed: [1\n", r"recipe\.yaml is not YAML"),
        ("- 1\n", r"holds a list, expected keys such as seed"),
        ("seed: !!python/object/apply:os.getpid []\n", r"recipe\.yaml is not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)

    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "recipe.yaml")


def test_a_missing_recipe_names_its_neighbours(tmp_path):
    (tmp_path / "other.yaml").write_text("")

    with pytest.raises(ConfigError, match=r"there is no recipe .*recipe\.yaml; .* has other\.yaml"):
        load_config(tmp_path / "recipe.yaml")


def test_an_override_without_a_value_says_what_is_expected():
    with pytest.raises(ConfigError, match=r"--set 'folds\.num_folds': expected key\.sub=value"):
        build_config({}, "x", ["folds.num_folds"])


def test_differences_name_each_leaf():
    assert differences({"a": {"b": 1}, "c": [1]}, {"a": {"b": 2}, "c": [1, 3]}) == [
        "a.b: 1 -> 2",
        "c.1: not set -> 3",
    ]


def test_the_recipe_leaves_out_places_and_the_machine():
    base = Config()

    assert override_config(base, ["machine.num_workers=2", "images.cache_dir=/elsewhere"]).recipe() == base.recipe()
    assert override_config(base, ["seed=1"]).recipe() != base.recipe()


def test_nothing_changes_after_construction():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 2
