"""A local file of pretrained weights -> tensors under the names of a model of timm."""

import hashlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models import load_state_dict
from torch import Tensor

from pipeline.error_messages import on_one_line
from pipeline.errors import ConfigError

KEY = "model.weights"
NUM_SHOWN = 3  # keys in an error
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class NamedWeights:
    """Tensors under a model's own names, without those of its head if that is to be replaced."""

    tensors: dict[str, Tensor]
    has_head: bool
    how: str
    """How the names in the file differ, and what becomes of the head; for the log."""


def weights_checksum(path: Path) -> str:
    """Return the SHA-256 of a file. Raises ConfigError."""
    _require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of one that torch.save wrote; no code in it is executed.

    Of a whole training checkpoint, its weights. Raises ConfigError that names the file.
    """
    _require_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise ValueError("it is a web page")
        if start.startswith(b"version https://git-lfs"):
            raise ValueError("it is a pointer of Git LFS, not the file itself")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of other versions
            weights = load_state_dict(str(path))
        if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError("it does not contain a state_dict, tensors by name")
        invalid = next((name for name, value in weights.items() if not bool(value.isfinite().all())), None)
        if invalid is not None:
            raise ValueError(f"{invalid} is not finite")
    except Exception as error:
        # A file of any bytes makes torch, zipfile, pickle and safetensors raise errors of many classes; torch's text
        # about pickled code suggests to execute it.
        reason = "it contains more than tensors" if "weights_only" in str(error) else on_one_line(error)
        raise ConfigError(
            f"{KEY}: {path} can't be read ({reason or type(error).__name__}); expected a file of safetensors, or of "
            "torch.save(model.state_dict(), ...)"
        ) from None
    return dict(weights)


def match_names(found: Tensors, expected: Sequence[Tensors], head: Collection[str], origin: str) -> NamedWeights:
    """Give the tensors of a file the names of a model.

    `expected` are the model's tensors, of which only names and shapes are used, at its own input size and at the
    configured one: position embeddings depend on it. The names may be the same, differ by a common prefix, or be others
    for the same shapes in the same order. A head of another number of classes is left out. `origin` names file and
    model in an error. Raises ConfigError with the first keys that differ.
    """
    for model in expected:
        for names, how in _matches(found, model, head):
            return _apply(found, names, model, head, how)
    raise ConfigError(f"{KEY}: {origin}: {_first_differences(found, expected[0], head)}")


def _require_file(path: Path) -> None:
    try:
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{KEY}: {path} can't be read ({error})") from None
    if not is_file:
        raise ConfigError(f"{KEY}: {path} does not exist, or is not a file; give the path of the weights")


def _matches(found: Tensors, model: Tensors, head: Collection[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Yield each way to name the file's tensors: the name in the file by the name in the model."""
    required = {name for name in _without_counters(model) if name not in head}
    for prefix in _prefixes(found, required):
        names = {name: prefix + name for name in model if prefix + name in found}
        extra = set(_without_counters(found)) - set(names.values())
        fits = all(name in names and found[names[name]].shape == model[name].shape for name in required)
        if fits and not extra:
            yield names, f", whose names start with {prefix}" if prefix else ""
    in_file, in_model = _without_counters(found), _without_counters(model)
    if len(in_file) == len(in_model):
        pairs = list(zip(in_model, in_file, strict=True))
        if all(ours in head or found[theirs].shape == model[ours].shape for ours, theirs in pairs):
            yield dict(pairs), ", whose names differ: matched by order and shape"


def _without_counters(tensors: Tensors) -> list[str]:
    """Return the names of all tensors but the batch counters of norms, which files of old versions do not have."""
    return [name for name, tensor in tensors.items() if tensor.ndim > 0 or tensor.is_floating_point()]


def _prefixes(found: Tensors, required: Collection[str]) -> list[str]:
    """Return the prefixes under which the file may have the model's names, the empty one first."""
    first = min(required, default="")
    ends = [name.removesuffix(first) for name in found if name.endswith(first)]
    return sorted({prefix for prefix in ends if not prefix or prefix.endswith(".")}, key=len)


def _apply(found: Tensors, names: Mapping[str, str], model: Tensors, head: Collection[str], how: str) -> NamedWeights:
    tensors = {ours: found[theirs] for ours, theirs in names.items()}
    counters = model.keys() - set(_without_counters(model)) - tensors.keys()
    tensors |= {name: torch.zeros_like(model[name]) for name in counters}
    other_head = [name for name in head if name not in tensors or tensors[name].shape != model[name].shape]
    if other_head:
        sizes = {len(tensors[name]) for name in head if name in tensors and tensors[name].ndim}
        how += f"; its head of {max(sizes):,} classes is replaced by a new one" if sizes else "; it has no head"
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
    return NamedWeights(tensors, not other_head, how)


def _first_differences(found: Tensors, model: Tensors, head: Collection[str]) -> str:
    """Describe the first keys that only the file, or only the model, has, or whose shapes differ."""

    def shapes(tensors: Tensors, others: Tensors) -> str:
        different = [
            f"{name} {[*tensor.shape]}"
            for name, tensor in tensors.items()
            if name in _without_counters(tensors)
            and name not in head
            and (name not in others or others[name].shape != tensor.shape)
        ]
        more = f" and {len(different) - NUM_SHOWN:,} more" if len(different) > NUM_SHOWN else ""
        return ", ".join(different[:NUM_SHOWN]) + more if different else "nothing else"

    return f"the file has {shapes(found, model)}; the model has {shapes(model, found)}"
