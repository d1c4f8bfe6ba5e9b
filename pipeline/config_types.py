"""The base of all configs, and the types of their values, with their checks."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
    field_validator,
)


class BaseConfig(BaseModel):
    """Immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read_yaml_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept YAML's on and off, which are booleans, where they are names; reject booleans where numbers are due."""
        if not isinstance(value, bool) or info.field_name is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        types = (annotation, *get_args(annotation))
        if "on" in types:
            return "on" if value else "off"
        if bool not in types and (int in types or float in types):
            raise ValueError("expected a number")
        return value


def expand_home(path: Path) -> Path:
    """Replace `~` by the home folder. Raises ValueError if there is none."""
    if "\0" in str(path):
        raise ValueError("a path can't contain a null character")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(error).rstrip('.')}; write the whole path instead of ~") from None


def _limit(largest: int) -> AfterValidator:
    """Reject numbers with which a model or an augmentation would take hours, or all memory."""

    def check(params: dict[str, Any]) -> dict[str, Any]:
        for key, value in params.items():
            for number in _numbers(value):
                if not abs(number) <= largest:
                    raise ValueError(f"{key} is {number}, expected numbers up to {largest:,}")
        return params

    return AfterValidator(check)


def _numbers(value: Any) -> list[int | float]:
    if isinstance(value, dict | list | tuple):
        children = value.values() if isinstance(value, dict) else value
        return [number for child in children for number in _numbers(child)]
    return [value] if isinstance(value, int | float) else []


def _check_auto_or_positive(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("expected auto, or a number from 1")


AutoOrNumber = Annotated[Literal["auto"] | int, BeforeValidator(_check_auto_or_positive)]
FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
HomePath = Annotated[Path, AfterValidator(expand_home)]
"""A path in which `~` is the home folder."""
ModelParams = Annotated[dict[str, Any], _limit(4096)]
"""Keyword arguments of a model; widths and sizes are smaller."""
AugmentParams = Annotated[dict[str, Any], _limit(1024)]
"""Keyword arguments of an augmentation; sizes in pixels and numbers of holes are smaller."""
