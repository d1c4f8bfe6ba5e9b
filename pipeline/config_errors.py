"""pydantic's errors in a config -> lines that name the nearest key, or the new name of a renamed one."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic_core import ErrorDetails

from pipeline.config import CascadeConfig, Config, LogConfig, MachineConfig, PredictConfig
from pipeline.config_types import BaseConfig
from pipeline.member_config import MemberConfig, MuonConfig, ScheduleConfig, TrainConfig

RENAMED_KEYS: dict[type[BaseConfig], dict[str, str]] = {
    MemberConfig: {"alternate_mirror": "alternating_flip"},
    TrainConfig: {"image_sizes": "progressive_resizing"},
    ScheduleConfig: {"start": "start_factor", "peak": "warmup_fraction", "end": "end_factor"},
    MuonConfig: {"num_iterations": "ns_steps"},
    PredictConfig: {"views": "tta", "selective": "cascade"},
    CascadeConfig: {
        "max_loss": "max_accuracy_drop",
        "max_passes": "max_forward_passes",
        "sample": "calibration_size",
    },
    MachineConfig: {"predict_batch": "predict_batch_size"},
    LogConfig: {"tensorboard": "trackers"},
}
RENAMED_VALUES: dict[tuple[type[BaseConfig], str], dict[str, str]] = {
    (ScheduleConfig, "kind"): {"triangle": "linear"},
    (PredictConfig, "tta"): {"identity": "none", "mirror": "flip", "mirror_shift": "flip_translate"},
}


def explain(details: ErrorDetails) -> list[str]:
    """Format one of pydantic's errors; a renamed section has a line for each renamed key in it."""
    loc = [part for part in details["loc"] if part != "[key]"]
    key, value = _dotted(loc), details["input"]
    if details["type"] == "extra_forbidden":
        return _explain_renamed(loc, loc, value) or [_explain_unknown(loc)]
    line = f"{key}: {details['msg'].removeprefix('Value error, ')}"
    if isinstance(value, dict | list):
        return [line]
    return [f"{line}, found {value!r}{_explain_renamed_value(loc, value)}"]


def _explain_unknown(loc: Sequence[int | str]) -> str:
    names = list(_model_at(loc[:-1]).model_fields)
    return f"unknown key {_dotted(loc)!r}; {nearest(str(loc[-1]), names, cutoff=0.5)}"


def nearest(name: str, names: Sequence[str], *, cutoff: float) -> str:
    """Return a hint for an unknown name: the nearest of some names if one is as similar as `cutoff`, else all."""
    similar = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f"did you mean {similar[0]!r}?" if similar else f"known here: {', '.join(names)}"


def _explain_renamed(old: Sequence[int | str], loc: Sequence[int | str], value: Any) -> list[str]:
    """Return a line for a renamed key and for each renamed key below it; none if neither it nor a parent is renamed.

    `old` is the location in the file, `loc` the same with the new names of its parents.
    """
    model = _model_at(loc[:-1])
    name = RENAMED_KEYS.get(model, {}).get(str(loc[-1]), loc[-1])
    loc, lines = [*loc[:-1], name], []
    if loc == [*old]:
        return []
    if name != old[-1]:
        values = [f"{new} (was {before})" for before, new in RENAMED_VALUES.get((model, str(name)), {}).items()]
        hint = f", with the values {', '.join(values)}" if values else ""
        lines = [f"unknown key {_dotted(old)!r}; it is now {_dotted(loc)!r}{hint}"]
    if isinstance(value, dict):
        for key, child in value.items():
            lines += _explain_renamed([*old, key], [*loc, key], child)
    return lines


def _explain_renamed_value(loc: Sequence[int | str], value: Any) -> str:
    if not loc or not isinstance(value, str):
        return ""
    name = RENAMED_VALUES.get((_model_at(loc[:-1]), str(loc[-1])), {}).get(value)
    return f"; {value!r} is now {name!r}" if name else ""


def _dotted(loc: Sequence[int | str]) -> str:
    return ".".join(map(str, loc))


def _model_at(loc: Sequence[int | str]) -> type[BaseConfig]:
    """Return the model that has the keys at a location of the config tree."""
    model: type[BaseConfig] = Config
    parts = iter(loc)
    for part in parts:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            # The model itself, or the one inside dict[str, M], tuple[M, ...] and M | None.
            types = [
                a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseConfig)
            ]
            model = types[0] if types else model
            if get_origin(annotation) is dict:
                next(parts, None)  # a key of the dict, such as a member's name
    return model
