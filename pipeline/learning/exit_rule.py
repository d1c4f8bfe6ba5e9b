"""Which test images need more than one look: the rounds of a prediction, and when an image may stop.

Most images are clear to the first net. Each round asks more nets, the last one for all views, and only about the images
whose answer could still change. ExecutorOptions to stop is found on a sample of test images that gets everything: an image that
stops loses the difference, in the final and calibrated probabilities, between the best class and the one it stopped
with. The temperature that makes these probabilities honest comes from out-of-fold predictions, and so does the mixture
of easy and hard images for which the loss is stated: the test images may hold any number of strange ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.learning.predict import TTAView, TTA, tta_views

Floats = NDArray[np.float64]
Probabilities = NDArray[np.float32]
NUM_LEVELS = 10  # of difficulty, in which the sample is compared with the held-out images


@dataclass(frozen=True)
class ModelPass:
    """A net, by its place in the order in which the nets are asked, and the views of which it is asked."""

    net: int
    views: tuple[TTAView, ...]


Round = tuple[ModelPass, ...]


def plan_stages(num_nets: int, views: TTA) -> list[Round]:
    """ModelPass one net about an image and its mirror, then twice as many nets with each round, at last for all views."""
    first, rest = tta_views(views)[:2], tta_views(views)[2:]
    ends = [min(2**power, num_nets) for power in range((num_nets - 1).bit_length() + 1)]
    rounds = [tuple(ModelPass(net, first) for net in range(begin, end)) for begin, end in zip([0, *ends], ends, strict=False)]
    return [*rounds, tuple(ModelPass(net, rest) for net in range(num_nets))] if rest else rounds


def plan_full_ensemble(num_nets: int, views: TTA) -> list[Round]:
    """ModelPass every net for all views of every image."""
    return [tuple(ModelPass(net, tta_views(views)) for net in range(num_nets))]


def num_passes(asked: Round) -> int:
    """Return how often an image goes through a net in a round."""
    return sum(len(ask.views) for ask in asked)


def margins(probabilities: Probabilities) -> Floats:
    """Return by how much the best class leads, for probabilities [N, classes]."""
    best = np.partition(probabilities.astype(np.float64), -2, axis=1)
    return best[:, -1] - best[:, -2]


@dataclass(frozen=True)
class ExitThresholds:
    """The margin from which on an image stops after each round but the last, and what this was found to cost."""

    margins: tuple[float, ...]
    expected_loss: float
    """In accuracy, against asking everything about every image; as for images like the held-out ones."""


def fit_exit_thresholds(after_rounds: Sequence[Probabilities], max_loss: float, weights: Floats) -> ExitThresholds:
    """Find margins for a sample whose probabilities [N, classes] after each round are given, the last being final.

    `weights` [N] say how much each image of the sample stands for. Each round may spend an equal part of `max_loss`,
    and what the rounds before it left.
    """
    final, share = after_rounds[-1].astype(np.float64), weights / weights.sum()
    rows, active = np.arange(len(final)), np.ones(len(final), bool)
    found, spent = [], 0.0
    for place, probabilities in enumerate(after_rounds[:-1], start=1):
        loss = share * (final.max(1) - final[rows, probabilities.argmax(1)])
        lead = margins(probabilities)
        order = np.argsort(-lead, kind="stable")
        order = order[active[order]]
        allowed = max_loss * place / (len(after_rounds) - 1) - spent
        num_stopped = int(np.searchsorted(np.cumsum(loss[order]), allowed, side="right"))
        # The first that may not stop sets the margin, so equal ones go on together.
        limit = float(np.nextafter(lead[order[num_stopped]], 2)) if num_stopped < len(order) else 0.0
        stops = active & (lead >= limit)
        spent += float(loss[stops].sum())
        active &= ~stops
        found.append(limit)
    return ExitThresholds(tuple(found), spent)


def importance_weights(held_out: Floats, sample: Floats) -> Floats:
    """Weigh a sample so that its margins [N] are spread as those of the held-out images [M] are."""
    edges = np.quantile(held_out, np.linspace(0, 1, NUM_LEVELS + 1)[1:-1])
    levels = np.searchsorted(edges, sample, side="right")
    wanted = np.bincount(np.searchsorted(edges, held_out, side="right"), minlength=NUM_LEVELS) / len(held_out)
    there = np.bincount(levels, minlength=NUM_LEVELS) / len(sample)
    return wanted[levels] / there[levels]


def needs_more_models(probabilities: Probabilities, limit: float, max_open: int) -> NDArray[np.bool_]:
    """Tell which images go on: those that lead by less than the limit, at most so many, the least certain first."""
    lead = margins(probabilities)
    goes_on = lead < limit
    if goes_on.sum() > max_open:
        goes_on[np.argsort(lead, kind="stable")[max_open:]] = False
    return goes_on
