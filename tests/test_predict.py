import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import TrainingError
from pipeline.learning.airbench import UnscaledBatchNorm
from pipeline.learning.compile import compile_model
from pipeline.learning.device import Machine
from pipeline.learning.inputs import InputSpec
from pipeline.learning.models import create_model
from pipeline.learning.predict import for_inference, predict, predict_logits, tta_views
from pipeline.member_config import ModelConfig
from pipeline.task import CIFAR10

IMAGES = np.random.default_rng(0).integers(0, 256, size=(23, 32, 32, 3), dtype=np.uint8)
SPEC = InputSpec.for_task(CIFAR10)


class CornerPixels(nn.Module):
    """Its logits are the corner pixels of its input."""

    def forward(self, x):
        return torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1], x[:, 0, -1, 0], x[:, 0, -1, -1]], 1)


class InputSize(nn.Module):
    """Its logits are the shape of its input."""

    def forward(self, x):
        return torch.tensor(x.shape[1:]).expand(len(x), 3)


def trained_model(name, **params):
    """Return a model whose norms have statistics."""
    torch.manual_seed(0)
    model, _ = create_model(ModelConfig(name=name, params={"widths": [8, 16, 16], **params}), CIFAR10)
    for norm in (module for module in model.modules() if isinstance(module, UnscaledBatchNorm)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.2, 4)
        nn.init.normal_(norm.bias)
    return model


@pytest.mark.parametrize(("tta", "num_views"), [("none", 1), ("flip", 2), ("flip_translate", 6)])
def test_tta_views_are_flips_and_translations_with_weights_that_sum_to_one(tta, num_views):
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).float()
    views = tta_views(tta)
    viewed = [view.apply(images, 32) for view in views]

    assert len(viewed) == num_views
    assert sum(view.weight for view in views) == pytest.approx(1)
    assert all(view.shape == images.shape for view in viewed)
    assert torch.equal(viewed[0], images)
    if num_views > 1:
        assert torch.equal(viewed[1], images.flip(-1))
    if num_views == 6:
        assert [view.weight for view in views] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
        assert torch.equal(viewed[2][..., 1:, 1:], images[..., :-1, :-1])
        assert torch.equal(viewed[4][..., :-1, :-1], images[..., 1:, 1:])
        assert torch.equal(viewed[3], viewed[2].flip(-1))
        assert torch.equal(viewed[5], viewed[4].flip(-1))


@pytest.mark.parametrize(("size", "pixels"), [(128, 4), (48, 2), (16, 0)])
def test_translation_of_resized_images_is_one_pixel_of_the_original(size, pixels):
    images = torch.rand(2, 3, size, size)
    translated = tta_views("flip_translate")[2].apply(images, 32)

    assert torch.equal(translated[..., pixels:, pixels:], images[..., : size - pixels, : size - pixels])


def test_batches_are_halved_when_the_gpu_is_out_of_memory(monkeypatch):
    class Small(CornerPixels):
        def forward(self, images):
            sizes.append(len(images))
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    sizes = []
    expected = predict(CornerPixels(), SPEC, IMAGES[:20], "none", Machine(predict_batch_size=20))
    logits = predict(Small(), SPEC, IMAGES[:20], "none", Machine(predict_batch_size=20))

    assert sizes[:4] == [20, 10, 5, 3]
    assert max(sizes[4:]) == 3
    assert np.allclose(logits, expected)


def test_logits_are_averaged_over_tta_views():
    machine = Machine(predict_batch_size=7)
    logits, averaged = (predict(CornerPixels(), SPEC, IMAGES, tta, machine) for tta in ("none", "flip"))

    assert np.allclose(averaged, (logits + logits[:, [1, 0, 3, 2]]) / 2, atol=1e-6)


def test_logits_of_a_subset_of_views_are_their_weighted_mean():
    views, machine = tta_views("flip_translate"), Machine()
    each = [predict_logits(CornerPixels(), SPEC, IMAGES, [view], machine) for view in views]
    subset = predict_logits(CornerPixels(), SPEC, IMAGES, views[1:3], machine)

    assert np.allclose(subset, (2 * each[1] + each[2]) / 3, atol=1e-6)


@pytest.mark.parametrize("tta", ["none", "flip", "flip_translate"])
def test_logits_do_not_depend_on_the_batch_size(tta):
    whole, parts = (predict(CornerPixels(), SPEC, IMAGES, tta, Machine(predict_batch_size=size)) for size in (23, 5))

    assert np.allclose(whole, parts, atol=1e-6)
    assert whole.shape == (23, 4)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()


def test_images_are_resized_to_the_input_of_the_model():
    logits = predict(InputSize(), SPEC.at_size(20), IMAGES, "flip_translate", Machine(predict_batch_size=10))

    assert logits.tolist() == [[3, 20, 20]] * 23


def test_prediction_leaves_the_model_unchanged_and_reports_progress():
    model, progress = trained_model("airbench94", depth=2).train(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    machine = Machine(predict_batch_size=10)
    predict(model, SPEC, IMAGES, "none", machine, on_progress=lambda *pair: progress.append(pair))

    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert progress == [(10, 23), (20, 23), (23, 23)]


@pytest.mark.parametrize(
    ("name", "params"),
    [("airbench94", {"depth": 2}), ("airbench94", {"depth": 3}), ("airbench_res28", {"mid_channels": [12, 16]})],
)
def test_fused_norms_change_only_the_rounding(name, params):
    model = trained_model(name, **params)
    fused = for_inference(model, Machine())
    with torch.inference_mode():
        expected = model.eval()(SPEC.to_input(torch.from_numpy(IMAGES), torch.device("cpu"))).numpy()
    logits = predict_logits(fused, SPEC, IMAGES, tta_views("none"), Machine())

    assert not any(isinstance(module, UnscaledBatchNorm) for module in fused.modules())
    assert np.array_equal(logits.argmax(1), expected.argmax(1))
    assert np.allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_model_predicts_the_same_and_is_compiled_once():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    machine, model = Machine(predict_batch_size=10), trained_model("airbench94", depth=2)
    eager, compiled = (
        predict(model, SPEC, IMAGES, "flip", replace(machine, compile=is_compiled)) for is_compiled in (False, True)
    )

    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert np.allclose(eager, compiled, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_every_image_size_is_compiled_for_itself():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = nn.Conv2d(3, 1, 1)
    compile_model(model)
    for size in (8, 12, 16):
        model(torch.zeros(1, 3, size, size))

    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


class Diverged(nn.Module):
    """Its logits are not finite for images with a dark corner."""

    def forward(self, x):
        return torch.where(x[:, :1, 0, 0] < 0, torch.nan, 1.0).expand(-1, 3)


@pytest.mark.parametrize("machine", [Machine(), Machine(predict_batch_size=5)])
def test_predictions_that_are_not_finite_are_an_error(machine):
    invalid = int((IMAGES[:, 0, 0, 0] < 0.4914 * 255).sum())
    message = rf"predictions of {invalid} of 23 images are not finite: .*; lower train\.optimizer\.lr .* another --run"
    with pytest.raises(TrainingError, match=message):
        predict(Diverged(), SPEC, IMAGES, "none", machine)
