"""YAML and `--set` -> a Config."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import Config, Json
from pipeline.config_errors import explain
from pipeline.error_messages import explain_cause
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULT_CONFIG = CONFIGS / "quick.yaml"

# Limits of a config file; ours have some 2,000 characters.
MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES = 1 << 20, 50, 100_000


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML of limited depth, in which a duplicate key is an error."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise ConfigError(f"line {line}: nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"line {line}: keys must be strings")
            if key_node.value in keys:
                raise ConfigError(f"line {line}: duplicate key {key_node.value!r}")
            keys.add(key_node.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 has no float without a point: 1e-3 would be a text.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, name: str) -> Any:
    """Parse safe YAML without duplicate keys. Raises ConfigError that starts with `name`."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{name} has {len(text):,} characters, expected a config of at most {MAX_CHARACTERS:,}")
    try:
        tree = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 (a subclass of SafeLoader)
        if _num_values(tree, {}) > MAX_VALUES:
            raise ConfigError(f"more than {MAX_VALUES:,} values with all aliases expanded")
        return tree
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        # PyYAML does not wrap ValueError from int and datetime.
        raise ConfigError(f"{name} can't be parsed: {str(error)[:200]}") from None


def _num_values(tree: Any, counts: dict[int, int]) -> int:
    """Count the values of a tree with all aliases expanded, without expanding them.

    Raises ConfigError for a recursive alias.
    """
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) not in counts:
        counts[id(tree)] = -1
        children = tree.values() if isinstance(tree, dict) else tree
        counts[id(tree)] = 1 + sum(_num_values(value, counts) for value in children)
    if counts[id(tree)] < 0:
        raise ConfigError("recursive alias")
    return counts[id(tree)]


def read_yaml(path: Path, what: str, explain_missing: Callable[[], str] = str) -> Any:
    """Read a YAML file, a `what` for errors. Raises ConfigError; `explain_missing` ends that of a missing file."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist{explain_missing()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} can't be read: {explain_cause(error)}") from None
    return parse_yaml(text, str(path))


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config file and apply `key.sub=value` overrides. Raises ConfigError with one line per error."""
    tree = read_yaml(path, "config", lambda: _list_configs(path.parent)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} contains a {type(tree).__name__}, expected keys such as {', '.join(Config.model_fields)}"
        )
    return build_config(tree, str(path), overrides)


def override_config(config: Config, overrides: Iterable[str]) -> Config:
    """Return the config with `key.sub=value` overrides. Raises ConfigError."""
    return build_config(config.model_dump(mode="json"), "--set", overrides)


def build_config(tree: Json, name: str, overrides: Iterable[str] = ()) -> Config:
    """Apply the overrides to a tree of plain values and validate it. Raises ConfigError with one line per error."""
    for override in overrides:
        _override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [line for details in error.errors() for line in explain(details)]
        raise ConfigError("\n".join(f"{name}: {line}" for line in lines)) from None


def differences(old: Json, new: Json) -> list[str]:
    """Return every leaf in which two trees differ, as `key.sub: old -> new`."""
    old_leaves, new_leaves = dict(leaves(old)), dict(leaves(new))
    return [
        f"{key}: {old_leaves.get(key, 'not set')} -> {new_leaves.get(key, 'not set')}"
        for key in sorted(old_leaves.keys() | new_leaves.keys())
        if old_leaves.get(key, "not set") != new_leaves.get(key, "not set")
    ]


def leaves(tree: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield (`key.sub`, value) of every leaf of a tree."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and tree:
        for index, value in enumerate(tree):
            yield from leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, tree


def get_value(tree: Json, key: str) -> Any:
    """Return the value of a `key.sub` in a tree of plain values. Raises KeyError."""
    value: Any = tree
    for part in key.split("."):
        value = (value if isinstance(value, dict) else {})[part]
    return value


def set_value(tree: Json, key: str, value: Any) -> None:
    """Set the value of a `key.sub` in a tree of plain values; the parts below the top are not shared with others."""
    *parents, last = key.split(".")
    for part in parents:
        child = tree.get(part)
        tree[part] = dict(child) if isinstance(child, dict) else {}
        tree = tree[part]
    tree[last] = value


def _override(tree: Json, override: str) -> None:
    """Set one `key.sub=value` in the tree, the value parsed as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: expected key.sub=value, for example folds.num_folds=3")
    _require_member(tree, parts)
    set_value(tree, key.strip(), parse_yaml(text, f"--set {override!r}"))


def _require_member(tree: dict[str, Any], parts: list[str]) -> None:
    """Raise ConfigError for a value of a member that the config does not have: it would become another member."""
    members = tree.get("members") or Config.model_fields["members"].default
    if len(parts) > 2 and parts[0] == "members" and isinstance(members, dict) and parts[1] not in members:
        raise ConfigError(
            f"--set {'.'.join(parts)}: the config has no member {parts[1]!r}, only {', '.join(map(str, members))}; to "
            "add a member, set it as a whole: members.NAME={...}"
        )


def _list_configs(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.yaml"))
    return f"; {folder} has {', '.join(names)}" if names else ""
