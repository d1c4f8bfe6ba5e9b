"""Trained folds -> the test images' probabilities, round by round; what is done is kept slice by slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.image_cache import ImageStore
from pipeline.config import CascadeConfig
from pipeline.executors.executor import Executor
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.learning.flops import pass_flop
from pipeline.learning.predict import tta_views
from pipeline.learning.exit_rule import (
    Round,
    ExitThresholds,
    fit_exit_thresholds,
    margins,
    num_passes,
    plan_full_ensemble,
    plan_stages,
    needs_more_models,
    importance_weights,
)
from pipeline.predictions import Ids, Predictions, mean_of_logits, weighted_mean
from pipeline.progress import ProgressDisplay, log

MIN_TEST_IMAGES = 5  # times the sample; with fewer the sample costs more than it saves
SMALLEST_WEIGHT = 1e-6  # below it a member changes nothing and is not asked
SAMPLE, ROUND = "sample", "round"  # the names under which nets' answers are kept


@dataclass(frozen=True)
class TestPredictions:
    """The blend's probabilities, how many passes each image got, and how that came about."""

    blended: Predictions
    passes: NDArray[np.int64]
    account: dict[str, Any]


def predict_cascade(
    jobs: Sequence[FoldJob],
    ensemble: Mapping[str, Any],
    store: ImageStore,
    executor: Executor,
    view: ProgressDisplay,
    *,
    selective: CascadeConfig | None,
    seed: int,
    held_out: Predictions,
) -> TestPredictions:
    """Predict the test images with the folds of all members that have a weight in the ensemble.

    With `selective`, images whose answer is clear get fewer passes; `held_out` are the blended out-of-fold
    predictions that say how images are to be expected.
    """
    panel = _EnsemblePredictor(jobs, ensemble, store, executor, view)
    account: dict[str, Any] = {"rounds": []}
    rule = ExitThresholds((), 0.0)
    num_images, sample_size = len(store.ids), selective.sample if selective else 0
    if selective is None or num_images < MIN_TEST_IMAGES * sample_size:
        rounds = plan_full_ensemble(len(panel.jobs), panel.views)
        sample = np.empty(0, np.int64)
    else:
        rounds = plan_stages(len(panel.jobs), panel.views)
        sample = np.sort(np.random.default_rng(seed).permutation(num_images)[:sample_size])
        rule = _find_rule(panel, rounds, sample, selective.max_loss, held_out)
        account |= {"sample": len(sample), "margins": list(rule.margins), "expected_loss": rule.expected_loss}
    account["passes_of_everything"] = sum(num_passes(asked) for asked in rounds)
    blended = np.empty((num_images, held_out.probabilities.shape[1]), np.float32)
    passes = np.zeros(num_images, np.int64)
    if len(sample):
        blended[sample] = panel.estimate(SAMPLE, rounds, store.ids[sample])
        passes[sample] = account["passes_of_everything"]
    rows = np.setdiff1d(np.arange(num_images), sample)
    for number, asked in enumerate(rounds):
        if not len(rows):
            break
        panel.ask(asked, f"{ROUND}_{number}", rows)
        blended[rows] = panel.estimate(ROUND, rounds[: number + 1], store.ids[rows])
        passes[rows] += num_passes(asked)
        account["rounds"].append({"passes": num_passes(asked), "images": len(rows)})
        if number + 1 < len(rounds) and selective is not None:
            left = selective.max_forward_passes * num_images - float(passes.sum())
            max_open = max(0, int(left / num_passes(rounds[number + 1])))
            wanted = needs_more_models(blended[rows], rule.margins[number], len(rows))
            given = needs_more_models(blended[rows], rule.margins[number], max_open)
            account["rounds"][-1]["refused_by_cap"] = int(wanted.sum() - given.sum())
            rows = rows[given]
    account["mean_passes"] = float(passes.mean())
    name, seen = (SAMPLE, sample) if len(sample) else (ROUND, np.arange(num_images))
    account["agreement"] = panel.agreement(name, rounds, store.ids[seen])
    log.info("%s", format_cascade_stats(account, num_images))
    return TestPredictions(Predictions(store.ids, blended), passes, account)


def total_prediction_flops(jobs: Sequence[FoldJob], selective: CascadeConfig | None, num_images: int) -> float:
    """Return the operations that the prediction of so many test images takes at most, the sample left aside."""
    num_views = len(tta_views(jobs[0].views))
    most = len(jobs) * num_views
    passes = min(most, selective.max_forward_passes) if selective else most
    flop = {job.name: pass_flop(job.member) for job in jobs}
    return num_images * passes * sum(flop[job.name] for job in jobs) / len(jobs)


def format_cascade_stats(account: Mapping[str, Any], num_images: int) -> str:
    """Say how many images got how many passes."""
    everything, mean_passes = account["passes_of_everything"], account["mean_passes"]
    if "expected_loss" not in account:
        return f"{num_images:,} test images got all {everything} passes (fold x view)"
    total, texts = 0, []
    for asked in account["rounds"]:
        total += asked["passes"]
        texts.append(f"{asked['images']:,} at least {total}")
    return (
        f"passes (fold x view) of the test images: {', '.join(texts)}, a sample of {account['sample']:,} all "
        f"{everything}; {mean_passes:.2f} on average, {everything / mean_passes:.1f} times fewer than all; "
        f"expected loss of accuracy {account['expected_loss']:.5f}" + _describe_cap(account)
    )


def _describe_cap(account: Mapping[str, Any]) -> str:
    refused = sum(asked.get("refused_by_cap", 0) for asked in account["rounds"])
    return f", and more for {refused:,} images that the cap on passes left as they were" if refused else ""


def _find_rule(
    panel: "_EnsemblePredictor", rounds: Sequence[Round], sample: NDArray[np.int64], max_loss: float, held_out: Predictions
) -> ExitThresholds:
    """ModelPass everything about a sample, and find the margins at which an image may stop."""
    ids = panel.store.ids[sample]
    for number, asked in enumerate(rounds):
        panel.ask(asked, f"{SAMPLE}_{number}", sample)
    after_rounds = [panel.estimate(SAMPLE, rounds[: number + 1], ids) for number in range(len(rounds))]
    # The held-out images know one fold each, so they are compared with what one fold says of the sample.
    weights = importance_weights(margins(held_out.probabilities), margins(panel.first_fold(rounds, ids)))
    return fit_exit_thresholds(after_rounds, max_loss, weights)


class _EnsemblePredictor:
    """The nets in the order in which they are asked: fold by fold, in each the heaviest member first."""

    def __init__(
        self,
        jobs: Sequence[FoldJob],
        ensemble: Mapping[str, Any],
        store: ImageStore,
        executor: Executor,
        view: ProgressDisplay,
    ) -> None:
        self._weights, self._temperatures = ensemble["weights"], ensemble["temperatures"]
        heard = [job for job in jobs if self._weights[job.name] > SMALLEST_WEIGHT]
        self.jobs = sorted(heard, key=lambda job: (job.fold, -self._weights[job.name], job.name))
        self.views = self.jobs[0].views
        self.store, self._executor, self._view = store, executor, view

    def ask(self, asked: Round, name: str, rows: NDArray[np.int64]) -> None:
        jobs = [(self.jobs[ask.net], PredictRequest(rows, ask.views, name)) for ask in asked]
        self._executor.predict(jobs, self.store, self._view)

    def estimate(self, name: str, rounds: Sequence[Round], ids: Ids) -> NDArray[np.float32]:
        """Blend what the nets have said so far about some images."""
        return self._blend(name, rounds, ids, range(len(self.jobs)))

    def first_fold(self, rounds: Sequence[Round], ids: Ids) -> NDArray[np.float32]:
        """Blend all that the first fold of every member says of the sample."""
        first = [net for net, job in enumerate(self.jobs) if job.fold == self.jobs[0].fold]
        return self._blend(SAMPLE, rounds, ids, first)

    def agreement(self, name: str, rounds: Sequence[Round], ids: Ids) -> dict[str, Any]:
        """Return on what share of some images, about which every net was asked everything, two nets say the same."""
        said = [self._blend(name, rounds, ids, [net]).argmax(1) for net in range(len(self.jobs))]
        shares = [[float((one == other).mean()) for other in said] for one in said]
        return {"images": len(ids), "nets": [str(job) for job in self.jobs], "shares": shares}

    def _blend(self, name: str, rounds: Sequence[Round], ids: Ids, nets: Sequence[int]) -> NDArray[np.float32]:
        asked = {ask.net for round_ in rounds for ask in round_}
        heard = [net for net in nets if net in asked]
        weights = [self._weights[self.jobs[net].name] for net in heard]
        return weighted_mean((self._said(name, rounds, ids, net) for net in heard), weights).probabilities

    def _said(self, name: str, rounds: Sequence[Round], ids: Ids, net: int) -> Predictions:
        """Return what a net has said so far about some images, at its temperature."""
        job = self.jobs[net]
        said = [
            (sum(view.weight for view in ask.views), job.folder.test(f"{name}_{number}").select(ids))
            for number, asked in enumerate(rounds)
            for ask in asked
            if ask.net == net
        ]
        whole = mean_of_logits([part for _, part in said], [weight for weight, _ in said])
        return whole.at_temperature(self._temperatures[job.name])
