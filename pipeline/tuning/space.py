"""A YAML file of config keys with their ranges or choices -> the distributions of a hyperparameter search."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from pipeline.config import Config, Json
from pipeline.config_errors import nearest
from pipeline.config_files import build_config, get_value, parse_yaml, read_yaml, set_value
from pipeline.errors import ConfigError

RANGE_FIELDS = ("low", "high", "step", "log")
EXAMPLE = "{low: 0.01, high: 1.0, log: true}, {low: 4, high: 12, step: 1} or [64, 128, 256]"
INTERIOR = 0.618  # of a range: a value between its ends that is not a round number
MAX_STEP_ERROR = 1e-6  # steps; of rounding


@dataclass(frozen=True)
class SearchSpace:
    """The distribution of each config key that is searched."""

    distributions: Mapping[str, BaseDistribution]
    """By dotted key. Lists and mappings among choices are JSON texts."""
    source: str
    """The file, for errors."""

    def suggest(self, trial: Trial) -> Json:
        """Return the values of a trial by key: those that it has, and for the others what the sampler suggests."""
        return {key: _suggest(trial, key, distribution) for key, distribution in self.distributions.items()}

    def values_of(self, config: Config) -> Json:
        """Return a config's own values, as parameters of a trial, without those that are not in the space."""
        tree, values = config.model_dump(mode="json"), {}
        for key, distribution in self.distributions.items():
            with suppress(KeyError):
                value = _to_parameter(get_value(tree, key))
                if _contains(distribution, value):
                    values[key] = value
        return values

    def apply(self, config: Config, values: Mapping[str, Any]) -> Config:
        """Return the config with some values. Raises ConfigError."""
        return _with_values(config.model_dump(mode="json"), values, self.source)

    def check(self, config: Config, member: str) -> None:
        """Check each key, both ends of each range and each choice against a config, of which a member is trained.

        Raises ConfigError with one line per error.
        """
        tree, lines = config.model_dump(mode="json"), list[str]()
        for key, distribution in self.distributions.items():
            problem = _check_member(key, config, member)
            if problem:
                lines.append(f"{self.source}: {key}: {problem}")
                continue
            for value in _examples(distribution):
                try:
                    _with_values(tree, {key: value}, self.source)
                except ConfigError as error:
                    lines += str(error).splitlines()
        if lines:
            raise ConfigError("\n".join(dict.fromkeys(lines)))


def load_space(path: Path) -> SearchSpace:
    """Read a file with a search space. Raises ConfigError with one line per error."""
    return _build_space(read_yaml(path, "search space"), str(path))


def parse_space(text: str, source: str) -> SearchSpace:
    """Parse a search space. Raises ConfigError with one line per error, which starts with `source`."""
    return _build_space(parse_yaml(text, source), source)


def _build_space(tree: Any, source: str) -> SearchSpace:
    if not isinstance(tree, dict) or not tree:
        found = "nothing" if tree is None or tree == {} else f"a {type(tree).__name__}"
        raise ConfigError(f"{source} contains {found}, expected config keys, each with {EXAMPLE}")
    distributions, lines = {}, []
    keys = list(map(str, tree))
    for key, value in zip(keys, tree.values(), strict=True):
        try:
            distributions[key] = _parse_distribution(value)
        except ConfigError as error:
            lines.append(f"{source}: {key}: {error}")
    lines += [
        f"{source}: {key}: it contains {other}, which is searched too; remove one of them"
        for key in keys
        for other in keys
        if other.startswith(f"{key}.")
    ]
    if lines:
        raise ConfigError("\n".join(lines))
    return SearchSpace(distributions, source)


def parse_value(value: Any) -> Any:
    """Return the config value of a parameter: the list or mapping of a JSON text, anything else as it is."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _to_parameter(value: Any) -> Any:
    """Return what `parse_value` turns into a config value. Raises TypeError for what JSON does not have."""
    return json.dumps(value) if isinstance(value, dict | list) else value


def _parse_distribution(value: Any) -> BaseDistribution:
    if isinstance(value, list):
        return _parse_choices(value)
    if not isinstance(value, dict):
        raise ConfigError(f"found {value!r}, expected {EXAMPLE}")
    expected = ("choices",) if "choices" in value else RANGE_FIELDS
    for field in value:
        if field not in expected:
            raise ConfigError(f"unknown field {field!r}; {nearest(str(field), expected, cutoff=0.6)}")
    return _parse_choices(value["choices"]) if "choices" in value else _parse_range(value)


def _parse_choices(values: Any) -> CategoricalDistribution:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"found the choices {values!r}, expected a list, for example [64, 128, 256]")
    choices: list[Any] = []
    for value in values:
        try:
            choice = _to_parameter(value)
        except TypeError:
            choice = object()  # a date in a list
        if not isinstance(choice, bool | int | float | str | None):
            raise ConfigError(f"found the choice {value!r}, expected numbers, texts, true, false or null")
        if choice in choices:
            raise ConfigError(f"the choice {value!r} is there twice")
        choices.append(choice)
    return CategoricalDistribution(choices)


def _parse_range(fields: Json) -> BaseDistribution:
    for name in ("low", "high"):
        if name not in fields:
            raise ConfigError(f"{name} is missing, expected {EXAMPLE}")
    low, high = fields["low"], fields["high"]
    step, log = fields.get("step"), fields.get("log")
    for name, number in (("low", low), ("high", high), ("step", step)):
        is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if not is_number and (name in fields):
            raise ConfigError(f"{name} is {number!r}, expected a number")
    if log not in (None, True, False):
        raise ConfigError(f"log is {log!r}, expected true or false")
    if low > high:
        raise ConfigError(f"low {low} is above high {high}; swap them")
    if log and low <= 0:
        raise ConfigError(f"log needs a low above 0, found {low}")
    if log and step is not None:
        raise ConfigError("log and step exclude each other; remove one of them")
    if step is not None:
        _check_step(low, high, step)
    if all(isinstance(number, int) for number in (low, high, 1 if step is None else step)):
        return IntDistribution(low, high, log=bool(log), step=step or 1)
    return FloatDistribution(low, high, log=bool(log), step=step)


def _check_step(low: float, high: float, step: float) -> None:
    if step <= 0:
        raise ConfigError(f"step is {step}, expected a number above 0")
    num_steps = (high - low) / step
    if abs(num_steps - round(num_steps)) > MAX_STEP_ERROR:
        raise ConfigError(f"from low {low} to high {high} is not a whole number of steps of {step}; change one of them")


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return False
    if isinstance(distribution, IntDistribution) and not isinstance(value, int):
        return False
    num_steps = 0.0 if step is None else (value - low) / step
    return abs(num_steps - round(num_steps)) <= MAX_STEP_ERROR


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            key, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(key, distribution.choices)


def _with_values(tree: Json, values: Mapping[str, Any], source: str) -> Config:
    """Return the config of a tree with some values."""
    changed = dict(tree)
    for key, value in values.items():
        set_value(changed, key, parse_value(value))
    return build_config(changed, source)


def _check_member(key: str, config: Config, member: str) -> str:
    """Return what is wrong with the member that a key belongs to, if anything."""
    section, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    if section in Config.model_fields and section != "members":
        return f"expected keys of the member that is trained, members.{member}.KEY; change the others by --set"
    if section == "members" and name not in config.members:
        return f"the config has no member {name!r}, only {', '.join(config.members)}"
    if section == "members" and name != member:
        return f"the search trains the member {member} alone; remove this key, or choose --member {name}"
    return ""


def _examples(distribution: BaseDistribution) -> Iterator[Any]:
    """Yield every choice; both ends of a range, and a value between them if it has no steps."""
    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
    elif isinstance(distribution, IntDistribution | FloatDistribution):
        low, high = distribution.low, distribution.high
        yield from (low, high)
        if isinstance(distribution, FloatDistribution) and distribution.step is None and low < high:
            yield low + INTERIOR * (high - low)
