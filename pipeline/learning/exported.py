"""An ensemble as one module: uint8 images -> probabilities; normalisation, resize, TTA and averages are inside."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.learning.device import CPU, Machine
from pipeline.learning.inputs import InputSpec
from pipeline.learning.predict import TTA, for_inference, tta_views
from pipeline.learning.train import build_model
from pipeline.member_config import MemberConfig
from pipeline.task import Task


@dataclass(frozen=True)
class ExportedModel:
    """A model for inference (see `for_inference`), its input, and its temperature and weight in the ensemble."""

    model: nn.Module
    spec: InputSpec
    temperature: float
    weight: float


class ExportedEnsemble(nn.Module):
    """The weighted mean of the calibrated probabilities of some models, as `Ensemble.probabilities` computes it.

    `image_size` is height and width of the images in pixels.
    """

    def __init__(self, models: Sequence[ExportedModel], image_size: int, tta: TTA) -> None:
        super().__init__()
        total = sum(model.weight for model in models)
        self.weights = [model.weight / total for model in models]
        self.image_size = image_size
        self.parts = nn.ModuleList(_CalibratedModel(model, image_size, tta) for model in models)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities [batch, classes] of uint8 images [batch, height, width, 3]."""
        parts = [weight * part(images) for weight, part in zip(self.weights, self.parts, strict=True)]
        return torch.stack(parts).sum(0)

    def example(self) -> Tensor:
        """Return images for tracing: two, as exporters take a dimension of 1 for a constant."""
        return torch.zeros(2, self.image_size, self.image_size, 3, dtype=torch.uint8)


class _CalibratedModel(nn.Module):
    """The probabilities of one model, from the mean of its logits over all TTA views."""

    view_weights: Tensor

    def __init__(self, exported: ExportedModel, image_size: int, tta: TTA) -> None:
        super().__init__()
        self.input = _Input(exported.spec, image_size)
        self.model = exported.model
        self.temperature, self.image_size, self.views = exported.temperature, image_size, tta_views(tta)
        weights = torch.tensor([view.weight for view in self.views])
        self.register_buffer("view_weights", (weights / weights.sum()).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.input(images)
        # All views in one batch, so that the graph has the model once.
        views = torch.cat([view.apply(inputs, self.image_size) for view in self.views])
        logits = self.model(views).unflatten(0, (len(self.views), -1))
        return ((self.view_weights * logits).sum(0) / self.temperature).softmax(1)


class _Input(nn.Module):
    """`InputSpec.to_input` without `F.interpolate`, whose antialiasing not every format has.

    The resize is linear: a product with one constant matrix for the rows, and one for the columns.
    """

    mean: Tensor
    std: Tensor
    resize: Tensor

    def __init__(self, spec: InputSpec, image_size: int) -> None:
        super().__init__()
        self.is_resized = spec.size != image_size
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).reshape(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(spec.std).reshape(3, 1, 1))
        self.register_buffer("resize", resize_matrix(image_size, spec))

    def forward(self, images: Tensor) -> Tensor:
        inputs = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.resize @ inputs @ self.resize.T if self.is_resized else inputs


def resize_matrix(image_size: int, spec: InputSpec) -> Tensor:
    """Return the matrix [spec.size, image_size] whose product with a column of pixels is the resized column."""
    identity = torch.eye(image_size)[None, None]
    return F.interpolate(identity, (spec.size, image_size), mode=spec.interpolation, antialias=True)[0, 0]


def load_safetensors(path: str | Path) -> ExportedEnsemble:
    """Return the ensemble in a file of `export --format safetensors`; the file alone is enough.

    Raises ValueError for another safetensors file, and SafetensorError for any other file.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if "models" not in metadata:
            raise ValueError(f"{path} was not written by export --format safetensors")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    task = TypeAdapter(Task).validate_json(metadata["task"])
    members = TypeAdapter(dict[str, MemberConfig]).validate_json(metadata["members"])
    models = [_load_model(model, members[model["member"]], task, tensors) for model in json.loads(metadata["models"])]
    tta = TypeAdapter(TTA).validate_python(metadata["tta"])
    return ExportedEnsemble(models, task.image_size, tta).eval()


def _load_model(
    values: Mapping[str, Any], member: MemberConfig, task: Task, tensors: Mapping[str, Tensor]
) -> ExportedModel:
    prefix = f"{values['name']}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    model, spec = build_model(member, task, CPU, weights)
    return ExportedModel(for_inference(model, Machine()), spec, values["temperature"], values["weight"])
