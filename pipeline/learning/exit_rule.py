"""Early exit: the stages of a cascade, and the exit thresholds.

One model with one TTA view is enough for most images. Each stage adds a view or models, the last one the remaining TTA
views, and only images with a low margin enter it. The exit thresholds are fitted on a sample of test images that gets
the full ensemble (all models, all TTA views), by how many exits change the predicted class. Importance weights reweight
the sample to the validation distribution: the test set may be out of distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.learning.predict import TTA, TTAView, tta_views

Floats = NDArray[np.float64]
Probabilities = NDArray[np.float32]
NUM_MARGIN_BINS = 10  # for the importance weights
NO_EXIT = 2.0  # a threshold above any margin
# What a changed prediction costs in accuracy, of images that no model was trained on: 0.10 to 0.34 in seven ensembles
# (docs/experiments.md). The probabilities of the full ensemble put it at 0.07, as an average of calibrated models is
# underconfident.
DROP_PER_CHANGE = 1 / 3


@dataclass(frozen=True)
class ModelPass:
    """Forward passes of one model, by its index in the order of the cascade: one per TTA view."""

    model: int
    views: tuple[TTAView, ...]


Stage = tuple[ModelPass, ...]


def plan_stages(num_models: int, tta: TTA) -> list[Stage]:
    """Return the stages of the cascade: 1, 2, 4, ... models, each first with one TTA view and then with a second.

    After them come all other views of all models.
    """
    first, rest = tta_views(tta)[:2], tta_views(tta)[2:]
    ends = [min(2**power, num_models) for power in range((num_models - 1).bit_length() + 1)]
    stages = [
        tuple(ModelPass(model, (view,)) for model in range(start, end))
        for start, end in zip([0, *ends], ends, strict=False)
        for view in first
    ]
    return [*stages, tuple(ModelPass(model, rest) for model in range(num_models))] if rest else stages


def plan_full_ensemble(num_models: int, tta: TTA) -> list[Stage]:
    """Return a single stage: all models with all TTA views."""
    return [tuple(ModelPass(model, tta_views(tta)) for model in range(num_models))]


def num_forward_passes(stage: Stage) -> int:
    """Return the forward passes per image of a stage."""
    return sum(len(model_pass.views) for model_pass in stage)


def margins(probabilities: Probabilities) -> Floats:
    """Return the margin [N] of the best class over the second, of probabilities [N, classes]."""
    top_two = np.partition(probabilities.astype(np.float64), -2, axis=1)
    return top_two[:, -1] - top_two[:, -2]


@dataclass(frozen=True)
class ExitThresholds:
    """An image exits after a stage if its margin is at least the stage's threshold."""

    thresholds: tuple[float, ...]
    """One per stage but the last."""
    expected_accuracy_drop: float
    """Against the full ensemble, on the validation distribution."""


def fit_exit_thresholds(
    stage_probabilities: Sequence[Probabilities], max_accuracy_drop: float, weights: Floats
) -> ExitThresholds:
    """Fit the thresholds on a calibration sample.

    `stage_probabilities` are the ensemble's probabilities [N, classes] after each stage, the last being the full
    ensemble's; `weights` [N] are the importance weights of the images. Each stage may cost an equal part of
    `max_accuracy_drop`, plus what earlier stages left.
    """
    full_classes, drop_per_change = stage_probabilities[-1].argmax(1), DROP_PER_CHANGE * weights / weights.sum()
    active = np.ones(len(full_classes), bool)
    # Exits end just before a changed prediction: without that one the estimate would be optimistic.
    reserve = smallest_drop(len(weights))
    thresholds, spent = [], 0.0
    for stage, probabilities in enumerate(stage_probabilities[:-1], start=1):
        drops = drop_per_change * (probabilities.argmax(1) != full_classes)
        margin = margins(probabilities)
        order = np.argsort(-margin, kind="stable")
        order = order[active[order]]
        allowed = (max_accuracy_drop - reserve) * stage / (len(stage_probabilities) - 1) - spent
        num_exits = int(np.searchsorted(np.cumsum(drops[order]), allowed, side="right"))
        if num_exits == len(order):
            threshold = 0.0
        elif num_exits == 0:
            threshold = NO_EXIT
        else:
            # The next float above the first margin that may not exit, so that images with an equal margin stay too.
            threshold = float(np.nextafter(margin[order[num_exits]], 2))
        exits = active & (margin >= threshold)
        spent += float(drops[exits].sum())
        active &= ~exits
        thresholds.append(threshold)
    return ExitThresholds(tuple(thresholds), spent + reserve if not active.all() else 0.0)


def smallest_drop(sample_size: int) -> float:
    """Return the smallest expected accuracy drop of early exits that a calibration sample can show."""
    return DROP_PER_CHANGE / sample_size


def importance_weights(validation_margins: Floats, calibration_margins: Floats) -> Floats:
    """Return weights [N] that give the calibration margins [N] the distribution of the validation margins [M]."""
    edges = np.quantile(validation_margins, np.linspace(0, 1, NUM_MARGIN_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, calibration_margins, side="right")
    target = np.bincount(np.searchsorted(edges, validation_margins, side="right"), minlength=NUM_MARGIN_BINS) / len(
        validation_margins
    )
    actual = np.bincount(bins, minlength=NUM_MARGIN_BINS) / len(calibration_margins)
    return target[bins] / actual[bins]


def needs_more_models(probabilities: Probabilities, threshold: float, max_images: int) -> NDArray[np.bool_]:
    """Return a mask [N] of the images with a margin below the threshold, at most `max_images`: the smallest margins."""
    margin = margins(probabilities)
    mask = margin < threshold
    if mask.sum() > max_images:
        mask[np.argsort(margin, kind="stable")[max_images:]] = False
    return mask
