"""The models that predict a run's test images -> one file for other programs, checked against the pipeline."""

import importlib.util
import json
import warnings
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import MachineConfig
from pipeline.data.image_cache import cache_folder, prepare_images
from pipeline.data.source import find_source_or_none
from pipeline.ensemble import Probabilities
from pipeline.error_messages import on_one_line
from pipeline.errors import RunError, UserError
from pipeline.files import open_atomic
from pipeline.learning.device import set_up_machine
from pipeline.learning.export_formats import EXPORT_FORMATS, INPUT, OUTPUT, ExportFormat
from pipeline.learning.exported import ExportedEnsemble, ExportedModel
from pipeline.member_config import MemberConfig
from pipeline.progress import log, progress_display
from pipeline.results import ExportedFile, FileFormat
from pipeline.runs.environment import package_versions
from pipeline.trained_ensemble import EnsemblePredictor, TrainedEnsemble, model_name

NUM_CHECKED = 1000  # images
CHECK_BATCH_SIZE = 64
MAX_DIFFERENCE = 1e-3  # of a probability; rounding gives less than 1e-5
# In float32, whatever precision the run had.
CPU_ONLY = MachineConfig(device="cpu", compile="off", autocast="off")
Images = NDArray[np.uint8]


def format_of(output: Path | None) -> FileFormat:
    """Return the format of an ending, ONNX for any other and without a path."""
    return next((name for name, each in EXPORT_FORMATS.items() if output and output.suffix == each.suffix), "onnx")


def export(trained: TrainedEnsemble, file_format: FileFormat, output: Path | None, input_dir: Path) -> ExportedFile:
    """Write an ensemble to one file; default: model.onnx, .pt or .safetensors in the run's folder.

    Raises UserError, and leaves the former file, if there is one, if the file that was written does not predict what
    the pipeline predicts.
    """
    chosen = EXPORT_FORMATS[file_format]
    missing = [name for name in chosen.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format {file_format}: not installed: {', '.join(missing)}; pip install {' '.join(missing)}")
    path = output or trained.run.path / f"model{chosen.suffix}"
    if path.is_dir():
        raise UserError(f"--output {path} is a folder, expected the name of a file")
    images = _some_images(trained, input_dir)
    predictor = EnsemblePredictor(trained, set_up_machine(CPU_ONLY))
    expected = predictor.probabilities(images)
    data = _encode(chosen, predictor, file_format)
    with open_atomic(path) as file:
        file.write(data)
        file.flush()
        difference = _largest_difference(chosen, Path(file.name), images, expected)
        if not difference <= MAX_DIFFERENCE:
            raise RunError(
                f"{path} was not written: its probabilities differ by up to {difference:.2g} from the pipeline's on "
                f"{len(images):,} images, expected at most {MAX_DIFFERENCE:g}; choose another --format"
            )
    return ExportedFile(
        path=path,
        num_bytes=len(data),
        num_models=len(trained.jobs),
        num_images=len(images),
        max_difference=difference,
    )


def _encode(chosen: ExportFormat, predictor: EnsemblePredictor, name: str) -> bytes:
    weights = {
        f"{model_name(job)}.{key}": tensor
        for job in predictor.trained.jobs
        for key, tensor in job.folder.weights().items()
    }
    ensemble, metadata = _exported_ensemble(predictor), _metadata(predictor)
    with warnings.catch_warnings():
        # Of exporters about themselves, and of models about what is constant in a graph, which the check covers.
        warnings.simplefilter("ignore")
        try:
            return chosen.encode(ensemble, weights, metadata)
        except UserError:
            raise
        except Exception as error:
            # A model that an exporter does not support makes it raise errors of any class.
            raise RunError(
                f"the models can't be exported as {name}: {type(error).__name__}: {on_one_line(error)}; choose another "
                "--format"
            ) from error


def _exported_ensemble(predictor: EnsemblePredictor) -> ExportedEnsemble:
    trained = predictor.trained
    models = [
        ExportedModel(
            model, spec, trained.ensemble.temperatures[job.member_name], trained.ensemble.weights[job.member_name]
        )
        for job, (model, spec) in zip(trained.jobs, predictor.models, strict=True)
    ]
    return ExportedEnsemble(models, trained.task.image_size, trained.config.predict.tta).eval()


def _metadata(predictor: EnsemblePredictor) -> dict[str, str]:
    """Return what a user of the file needs to know; all values but texts are JSON."""
    trained = predictor.trained
    task, config, ensemble = trained.task, trained.config, trained.ensemble
    total = sum(ensemble.weights[job.member_name] for job in trained.jobs)
    models = [
        {
            "name": model_name(job),
            "member": job.member_name,
            "temperature": ensemble.temperatures[job.member_name],
            "weight": ensemble.weights[job.member_name] / total,
            **asdict(spec),
        }
        for job, (_, spec) in zip(trained.jobs, predictor.models, strict=True)
    ]
    values: dict[str, Any] = {
        "class_names": task.class_names,
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["batch", *task.image_shape], "channels": "RGB"},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", task.num_classes]},
        "models": models,
        "members": {job.member_name: _without_path(job.member) for job in trained.jobs},
        "task": asdict(task),
        "versions": package_versions("safetensors"),
    }
    texts = {
        "run": trained.run.name,
        "tta": config.predict.tta,
        "commit": trained.run.environment().get("commit", "unknown"),
    }
    return texts | {key: json.dumps(value) for key, value in values.items()}


def _without_path(member: MemberConfig) -> dict[str, Any]:
    """Return a member's config with the name of its file of pretrained weights in place of the path."""
    values = member.model_dump(mode="json")
    if member.model.weights is not None:
        values["model"]["weights"] = member.model.weights.name
    return values


def _some_images(trained: TrainedEnsemble, input_dir: Path) -> Images:
    """Return training images from all parts of the cache; random ones, after a warning, if there is no input."""
    source = find_source_or_none(input_dir, trained.task)
    if source is None:
        log.warning("%s has no images of the competition: the file is checked on random ones", input_dir)
        shape = (NUM_CHECKED, *trained.task.image_shape)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    cache = cache_folder(trained.config.images.cache_dir, input_dir)
    with progress_display() as display, display.bar("decode train images") as bar:
        store = prepare_images(source, "train", cache, on_progress=bar)
    rows = np.linspace(0, len(store.ids) - 1, min(NUM_CHECKED, len(store.ids))).astype(int)
    return store.images[rows]


def _largest_difference(chosen: ExportFormat, written: Path, images: Images, expected: Probabilities) -> float:
    """Return the largest difference of a probability; batches of different sizes are part of the check."""
    starts = [0, *range(1, len(images), CHECK_BATCH_SIZE), len(images)]
    try:
        predict = chosen.load(written)
        parts = [predict(images[start:end]) for start, end in pairwise(starts)]
    except Exception as error:
        # Each package has errors of its own.
        raise RunError(
            f"the exported file can't be used: {type(error).__name__}: {on_one_line(error)}; choose another --format"
        ) from error
    return float(np.abs(np.concatenate(parts) - expected).max())
