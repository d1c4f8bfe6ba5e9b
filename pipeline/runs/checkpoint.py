"""Checkpoints: history and tensors of an unfinished fold in one file, with a checksum."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.files import write_bytes
from pipeline.runs.prediction_files import read_errors


def save_checkpoint(path: Path, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, atomically."""
    metadata = {"history": json.dumps(list(history)), "sha256": _sha256(tensors)}
    write_bytes(path, safetensors.torch.save(dict(tensors), metadata=metadata))


def load_checkpoint(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return history and tensors of a checkpoint. Raises CorruptedFileError."""
    with read_errors(path), safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata["sha256"] != _sha256(tensors):
            raise ValueError("its checksum is wrong")
        return json.loads(metadata["history"]), tensors


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
