"""Early exit: the stages of a cascade, and the exit thresholds.

One model with two TTA views is enough for most images. Each stage adds models, the last one the remaining TTA views,
and only images with a low margin enter it. The exit thresholds are fitted on a sample of test images that gets the full
ensemble (all models, all TTA views): the expected accuracy drop of an exit is p(class of the full ensemble) minus
p(class at the exit), both by the probabilities of the full ensemble, whose temperatures are fitted out of fold.
Importance weights reweight the sample to the validation distribution: the test set may be out of distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.learning.predict import TTA, TTAView, tta_views

Floats = NDArray[np.float64]
Probabilities = NDArray[np.float32]
NUM_MARGIN_BINS = 10  # for the importance weights


@dataclass(frozen=True)
class ModelPass:
    """Forward passes of one model, by its index in the order of the cascade: one per TTA view."""

    model: int
    views: tuple[TTAView, ...]


Stage = tuple[ModelPass, ...]


def plan_stages(num_models: int, tta: TTA) -> list[Stage]:
    """Return the stages of the cascade: 1, 2, 4, ... models with up to two TTA views, then all other views."""
    first, rest = tta_views(tta)[:2], tta_views(tta)[2:]
    ends = [min(2**power, num_models) for power in range((num_models - 1).bit_length() + 1)]
    stages = [
        tuple(ModelPass(model, first) for model in range(start, end))
        for start, end in zip([0, *ends], ends, strict=False)
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
    full, normalized_weights = stage_probabilities[-1].astype(np.float64), weights / weights.sum()
    rows, active = np.arange(len(full)), np.ones(len(full), bool)
    thresholds, spent = [], 0.0
    for stage, probabilities in enumerate(stage_probabilities[:-1], start=1):
        drops = normalized_weights * (full.max(1) - full[rows, probabilities.argmax(1)])
        margin = margins(probabilities)
        order = np.argsort(-margin, kind="stable")
        order = order[active[order]]
        allowed = max_accuracy_drop * stage / (len(stage_probabilities) - 1) - spent
        num_exits = int(np.searchsorted(np.cumsum(drops[order]), allowed, side="right"))
        # The next float above the first margin that may not exit, so that images with an equal margin stay too.
        threshold = float(np.nextafter(margin[order[num_exits]], 2)) if num_exits < len(order) else 0.0
        exits = active & (margin >= threshold)
        spent += float(drops[exits].sum())
        active &= ~exits
        thresholds.append(threshold)
    return ExitThresholds(tuple(thresholds), spent)


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
