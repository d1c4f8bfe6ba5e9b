"""An ExportedEnsemble -> the bytes of a file, and a file -> a function from images to probabilities."""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.learning.exported import ExportedEnsemble, load_safetensors
from pipeline.results import FileFormat

INPUT, OUTPUT = "images", "probabilities"
METADATA_JSON = "metadata.json"  # the extra file in a TorchScript file
MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's limit, less the graph
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class ExportFormat:
    """A file format, and the optional packages that it needs."""

    suffix: str
    encode: Callable[[ExportedEnsemble, Weights, dict[str, str]], bytes]
    """(ensemble, weights as they are trained, metadata) -> the content of the file."""
    load: Callable[[Path], Predict]
    packages: tuple[str, ...] = ()


def _to_onnx(ensemble: ExportedEnsemble, _weights: Weights, metadata: dict[str, str]) -> bytes:
    import onnx

    num_bytes = sum(tensor.nbytes for tensor in ensemble.state_dict().values())
    if num_bytes > MAX_ONNX_BYTES:
        raise UserError(
            f"the weights of all models take {num_bytes / 1e9:.1f} GB, an ONNX file at most 2 GB; give one --model, or "
            "choose another --format"
        )
    program = torch.onnx.export(
        ensemble,
        (ensemble.example(),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
        dynamo=True,
    )
    assert program is not None
    model = program.model_proto
    # Of each node, where in which files of this machine it was traced.
    for part in (*model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString()


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _to_torchscript(ensemble: ExportedEnsemble, _weights: Weights, metadata: dict[str, str]) -> bytes:
    trace: Any = torch.jit.trace  # untyped
    with torch.inference_mode():
        traced = trace(ensemble, ensemble.example(), check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file, _extra_files={METADATA_JSON: json.dumps(metadata)})
    return _without_debug_files(file)


def _without_debug_files(file: BinaryIO) -> bytes:
    """Return a TorchScript file without the names of the source files of this machine."""
    copy = io.BytesIO()
    with ZipFile(file) as archive, ZipFile(copy, "w") as smaller:
        for record in archive.infolist():
            if not record.filename.endswith(".debug_pkl"):
                smaller.writestr(record.filename, archive.read(record))
    return copy.getvalue()


def _load_torchscript(path: Path) -> Predict:
    load: Any = torch.jit.load  # untyped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        return _call(load(path))


def _to_safetensors(_ensemble: ExportedEnsemble, weights: Weights, metadata: dict[str, str]) -> bytes:
    return safetensors.torch.save(dict(weights), metadata)


def _load_safetensors(path: Path) -> Predict:
    return _call(load_safetensors(path))


def _call(module: nn.Module) -> Predict:
    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return predict


EXPORT_FORMATS: dict[FileFormat, ExportFormat] = {
    "onnx": ExportFormat(".onnx", _to_onnx, _load_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "torchscript": ExportFormat(".pt", _to_torchscript, _load_torchscript),
    "safetensors": ExportFormat(".safetensors", _to_safetensors, _load_safetensors),
}
