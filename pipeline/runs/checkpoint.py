"""Checkpoints: history and tensors of an unfinished fold in one file of safetensors, with a checksum."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.files import open_atomic
from pipeline.runs.prediction_files import read_errors

ALIGNMENT = 8
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """An unfinished fold: a row for each finished epoch, the tensors, and what is known of an unfinished epoch."""

    history: Sequence[Mapping[str, Any]]
    tensors: Mapping[str, Tensor]
    unfinished_epoch: Mapping[str, Any] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically, tensor by tensor: it takes no memory for a second copy of all."""
    tensors = checkpoint.tensors
    header: dict[str, Any] = {
        "__metadata__": {
            "history": json.dumps(list(checkpoint.history)),
            "unfinished_epoch": json.dumps(checkpoint.unfinished_epoch),
            "sha256": _sha256(tensors),
        }
    }
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open_atomic(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for data in map(_bytes_of, tensors.values()):
            file.write(data)


def load_checkpoint(path: Path) -> Checkpoint:
    """Return a saved checkpoint. Raises CorruptedFileError."""
    with read_errors(path), safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata["sha256"] != _sha256(tensors):
            raise ValueError("its checksum is wrong")
        unfinished_epoch = json.loads(metadata.get("unfinished_epoch", "null"))
        return Checkpoint(json.loads(metadata["history"]), tensors, unfinished_epoch)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_bytes_of(tensors[name]))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
