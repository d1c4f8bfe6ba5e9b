"""`export`: each format, read as its user would read it, predicts what the pipeline predicts."""

import importlib.util
import json
import shutil
import sys
import warnings
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from safetensors import safe_open

from pipeline import export as export_module
from pipeline.ensemble import Ensemble
from pipeline.errors import RunError
from pipeline.executors.run_jobs import fold_jobs, refit_jobs
from pipeline.export import export
from pipeline.learning import export_formats
from pipeline.learning.device import Machine
from pipeline.learning.exported import load_safetensors, resize_matrix
from pipeline.learning.inputs import InputSpec
from pipeline.learning.predict import predict_logits, tta_views
from pipeline.predictions import Predictions
from pipeline.runs.run_folder import open_run
from pipeline.task import CIFAR10
from pipeline.trained_ensemble import open_ensemble

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
NAMES = {"onnx": "model.onnx", "torchscript": "model.pt", "safetensors": "model.safetensors"}


@pytest.fixture(autouse=True)
def _in_run(cli, trained_folder, monkeypatch, tmp_path):
    """Change to a copy of the folder of the trained run, and check files on few images."""
    monkeypatch.chdir(shutil.copytree(trained_folder, tmp_path / "trained"))
    monkeypatch.setattr(export_module, "NUM_CHECKED", 20)
    monkeypatch.setattr(export_module, "CHECK_BATCH_SIZE", 8)


@pytest.fixture(scope="module")
def expected(trained_folder):
    """The probabilities of the pipeline for IMAGES, in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained_folder)
        run = open_run("two")
        config = run.config()
        ensemble = Ensemble.from_json(run.load_json("ensemble.json"))
        jobs = [*fold_jobs(run, config, CIFAR10), *refit_jobs(run, config, CIFAR10)]
        members = []
        for job in jobs:
            model, spec = job.load_for_inference(Machine())
            logits = predict_logits(model, spec, IMAGES, tta_views("flip_translate"), Machine())
            members.append((job.member_name, Predictions(np.arange(len(IMAGES)), logits)))
    assert len(members) == 4
    return ensemble.probabilities(members)[1]


def load_torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(path)


def load(path):
    """Return a function from images to probabilities, and the metadata in the file."""
    if path.suffix == ".onnx":
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0], metadata
    if path.suffix == ".pt":
        files = {"metadata.json": ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(path, _extra_files=files)
        metadata = json.loads(files["metadata.json"])
    else:
        module = load_safetensors(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), metadata


@pytest.mark.parametrize("file_format", NAMES)
def test_exported_ensemble_has_the_probabilities_of_the_pipeline(cli, zip_folder, expected, file_format):
    done = cli("export", "--run", "two", "--format", file_format, "--input", zip_folder)
    path = Path("submissions", "two", NAMES[file_format])
    predict, metadata = load(path)

    assert done.status == 0, done.stderr
    assert done.stdout.startswith(f"{path}: 4 models, ")
    assert "largest difference from the pipeline's probabilities on 20 images: " in done.stdout
    assert np.ptp(expected, axis=1).min() > 0.01
    assert np.allclose(predict(IMAGES), expected, atol=1e-5)
    assert np.allclose(predict(IMAGES[:1]), expected[:1], atol=1e-5)
    assert json.loads(metadata["class_names"]) == list(CIFAR10.class_names)
    assert json.loads(metadata["input"])["shape"] == ["batch", 32, 32, 3]
    models = json.loads(metadata["models"])
    assert [model["name"] for model in models] == [
        "resized/refit_0", "net/refit_0", "resized/fold_0", "net/fold_0",
    ]  # fmt: skip
    assert sum(model["weight"] for model in models) == pytest.approx(1)
    assert (metadata["run"], metadata["tta"], models[0]["size"]) == ("two", "flip_translate", 40)
    assert set(json.loads(metadata["versions"])) >= {"torch", "timm"}


@pytest.mark.parametrize("file_format", NAMES)
def test_file_contains_no_path_of_this_machine(cli, zip_folder, tmp_path, file_format):
    done = cli("export", "--run", "two", "--model", "net/fold_0", "--format", file_format, "--input", zip_folder)
    path = Path("submissions", "two", NAMES[file_format])
    contents = [path.read_bytes()]
    if file_format == "torchscript":
        with ZipFile(path) as archive:
            contents += map(archive.read, archive.namelist())

    assert done.status == 0, done.stderr
    for secret in (sys.prefix, ROOT, tmp_path):
        assert not any(str(secret).encode() in content for content in contents)


def test_one_model_alone_has_the_temperature_of_its_member(cli, zip_folder):
    done = cli("export", "--run", "two", "--model", "net/fold_0", "--output", "out/net.pt", "--input", zip_folder)
    (job,) = [job for job in fold_jobs(open_run("two"), open_run("two").config(), CIFAR10) if job.member_name == "net"]
    model, spec = job.load_for_inference(Machine())
    logits = predict_logits(model, spec, IMAGES, tta_views("flip_translate"), Machine())
    with torch.inference_mode():
        probabilities = load_torchscript("out/net.pt")(torch.from_numpy(IMAGES))

    assert done.status == 0, done.stderr
    assert done.stdout.startswith("out/net.pt: 1 model, ")
    assert torch.allclose(probabilities, (torch.from_numpy(logits) / 0.7).softmax(1), atol=1e-6)


def test_model_of_an_unfinished_run_is_exported_uncalibrated(cli, zip_folder):
    Path("submissions/two/ensemble.json").unlink()
    options = ("--run", "two", "--format", "safetensors", "--input", zip_folder)
    done = cli("export", *options, "--model", "net/fold_0")
    ensemble = cli("export", *options)

    assert done.status == 0
    assert "net/fold_0 is not calibrated" in done.stderr
    assert ensemble.status == 1
    assert ensemble.stderr.startswith("error: the run two has no ensemble yet: train all its folds (python run.py")


def test_without_input_the_file_is_checked_on_random_images(cli):
    done = cli("export", "--run", "two", "--format", "safetensors")

    assert done.status == 0
    assert "input has no images of the competition: the file is checked on random ones" in done.stderr
    assert "on 20 images" in done.stdout


def test_file_that_predicts_otherwise_is_not_written(monkeypatch, zip_folder):
    trained = open_ensemble(open_run("two"), CIFAR10)
    path = Path("submissions/two/model.safetensors")
    path.write_text("the former file")
    files = set(path.parent.iterdir())
    load_file = export_formats.load_safetensors
    # The wrong file has one model less.
    monkeypatch.setattr(export_formats, "load_safetensors", lambda path: drop_model(load_file(path)))

    with pytest.raises(
        RunError, match=r"model\.safetensors was not written: .* differ by up to 0\.\d+ .* on 20 images"
    ):
        export(trained, "safetensors", None, zip_folder)
    assert path.read_text() == "the former file"
    assert set(path.parent.iterdir()) == files


def drop_model(module):
    module.weights = [*module.weights[:-1], 0.0]
    return module


def test_model_that_a_format_does_not_support_is_one_line(monkeypatch, zip_folder):
    def fail(*_, **__):
        raise NotImplementedError("no such\noperator")

    monkeypatch.setattr(torch.jit, "trace", fail)
    with pytest.raises(
        RunError, match=r"^the models can't be exported as torchscript: NotImplementedError: no such operator; choose"
    ):
        export(open_ensemble(open_run("two"), CIFAR10), "torchscript", None, zip_folder)


def test_missing_packages_are_one_line(cli, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else find_spec(name, *rest)
    )
    done = cli("export", "--run", "two")

    assert done.status == 1
    assert done.stderr == (
        "error: --format onnx: not installed: onnx, onnxruntime, onnxscript; pip install onnx onnxruntime onnxscript\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "nothing"], "error: there is no run nothing in submissions; existing runs: two\n"),
        (
            ["--run", "two", "--model", "net/fold_1"],
            "error: --model net/fold_1: the run two has no such model, expected one of net/fold_0, resized/fold_0, "
            "net/refit_0, resized/refit_0\n",
        ),
        (
            ["--run", "two", "--output", "submissions"],
            "error: --output submissions is a folder, expected the name of a file\n",
        ),
    ],
    ids=["no run", "no model", "a folder"],
)
def test_wrong_argument_is_one_line(cli, arguments, message):
    done = cli("export", *arguments)

    assert (done.status, done.stderr) == (1, message)


def test_untrained_models_are_named(cli):
    shutil.rmtree("submissions/two/net/refit_0")
    done = cli("export", "--run", "two")

    assert done.status == 1
    assert done.stderr.startswith("error: run two: not trained yet: net refit 0; python run.py train --run two (with")


def test_file_of_pretrained_weights_is_named_without_its_path():
    trained = open_ensemble(open_run("two"), CIFAR10)
    member = trained.config.members["net"]
    model = member.model.model_copy(update={"weights": Path("/home/me/weights.pth")})

    values = export_module._without_path(member.model_copy(update={"model": model}))
    assert values["model"]["weights"] == "weights.pth"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [20, 32, 47, 224])
def test_resize_by_a_matrix_equals_interpolation_with_antialiasing(interpolation, size):
    inputs = torch.randn(2, 3, 32, 32)
    matrix = resize_matrix(32, InputSpec(size, CIFAR10.mean, CIFAR10.std, interpolation))
    resized = F.interpolate(inputs, size, mode=interpolation, antialias=True)

    assert torch.allclose(matrix @ inputs @ matrix.T, resized, atol=1e-5)
