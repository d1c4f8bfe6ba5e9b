"""YAML and `--set` -> a config, with the nearest right key for every wrong one."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from pipeline.config import Config, Json, BaseConfig
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULT_CONFIG = CONFIGS / "quick.yaml"


# Of a recipe; ours have some 2,000 characters.
MAX_TEXT, MAX_DEPTH, MAX_LEAVES = 1 << 20, 50, 100_000


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML, not too deep, in which a key that stands twice is an error, not the last one's victory."""

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
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: a key that is no text")
            if key_node.value in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: the key {key_node.value!r} stands twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """Parse safe YAML without duplicate keys. Raises ConfigError naming `where`."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{where} has {len(text):,} characters, expected a recipe of at most {MAX_TEXT:,}")
    try:
        tree = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 (a subclass of SafeLoader)
        if _num_leaves(tree, {}) > MAX_LEAVES:
            raise ConfigError(f"with its aliases it has more than {MAX_LEAVES:,} values")
        return tree
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        # PyYAML lets pass what int and datetime raise.
        raise ConfigError(f"{where} can't be read: {str(error)[:200]}") from None


def _num_leaves(tree: Any, known: dict[int, int]) -> int:
    """Count the values of a tree as if each alias were written out, without doing so. Raises ConfigError for a ring."""
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) not in known:
        known[id(tree)] = -1
        below = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_num_leaves(value, known) for value in below)
    if known[id(tree)] < 0:
        raise ConfigError("an alias stands within what it names")
    return known[id(tree)]


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe and apply `key.sub=value` overrides. Raises ConfigError with one line per fault."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no recipe {path}{_neighbours(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read as a recipe: {error}") from None
    tree = parse_yaml(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds a {type(tree).__name__}, expected keys such as {', '.join(Config.model_fields)}"
        )
    return build_config(tree, str(path), overrides)


def override_config(config: Config, overrides: Iterable[str]) -> Config:
    """Return the config with `key.sub=value` overrides. Raises ConfigError."""
    return build_config(config.model_dump(mode="json"), "--set", overrides)


def build_config(tree: Json, where: str, overrides: Iterable[str] = ()) -> Config:
    """Validate a tree of plain values after the overrides. Raises ConfigError with one line per fault."""
    for override in overrides:
        _override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def differences(old: Json, new: Json) -> list[str]:
    """Name every leaf in which two trees differ, as `key.sub: old -> new`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "not set") != after.get(key, "not set")
    ]


def _leaves(tree: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and tree:
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, tree


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `key.sub=value` in the tree, the value read as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: expected key.sub=value, for example folds.num_folds=3")
    for part in parts[:-1]:
        below = tree.get(part)
        tree[part] = dict(below) if isinstance(below, dict) else {}
        tree = tree[part]
    tree[parts[-1]] = parse_yaml(text, f"--set {override!r}")


def _explain(loc: tuple[int | str, ...], kind: str, message: str, found: Any) -> str:
    key = ".".join(str(part) for part in loc if part != "[key]")
    if kind == "extra_forbidden":
        names = list(_model_at(loc[:-1]).model_fields)
        near = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
        return f"unknown key {key!r}; {hint}"
    message = message.removeprefix("Value error, ")
    if isinstance(found, dict | list):
        return f"{key}: {message}"
    return f"{key}: {message}, found {found!r}"


def _model_at(loc: tuple[int | str, ...]) -> type[BaseConfig]:
    """Return the model whose keys stand at a place of the config tree."""
    model: type[BaseConfig] = Config
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            # The model itself, or the one inside dict[str, M], tuple[M, ...] and M | None.
            inside = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseConfig)]
            model = inside[0] if inside else model
    return model


def _neighbours(path: Path) -> str:
    names = sorted(found.name for found in path.parent.glob("*.yaml"))
    return f"; {path.parent} has {', '.join(names)}" if names else ""
