"""Adaptive inference over the test set: which models and TTA views each image gets, stage by stage.

Most images are predicted reliably by the first models. Each stage runs more models, the last one all TTA views, and
only on the images whose prediction may still change (learning/exit_rule.py). Finished logits are saved in chunks.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import CascadeConfig
from pipeline.data.image_store import ImageStore
from pipeline.ensemble import Ensemble, Probabilities, mean_logits
from pipeline.executors.executor import Executor
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.learning.exit_rule import (
    ExitThresholds,
    Stage,
    fit_exit_thresholds,
    importance_weights,
    margins,
    needs_more_models,
    num_forward_passes,
    plan_full_ensemble,
    plan_stages,
    smallest_drop,
)
from pipeline.learning.flops import forward_flops
from pipeline.learning.predict import tta_views
from pipeline.predictions import CascadePredictions, Predictions
from pipeline.progress import Display, log
from pipeline.results import Agreement, CascadeStats, StageStats
from pipeline.temperature_scaling import to_probabilities

TEST_TO_SAMPLE_RATIO = 5  # a larger calibration sample costs more than it saves
MIN_SAMPLE_SIZE = 10
MIN_WEIGHT = 1e-6  # members with less weight are skipped
CALIBRATION, STAGE = "sample", "cascade"  # names of the files of saved logits; those of other stages had other names


def predict_cascade(
    jobs: Sequence[FoldJob],
    ensemble: Ensemble,
    store: ImageStore,
    executor: Executor,
    display: Display,
    *,
    config: CascadeConfig | None,
    seed: int,
    fold_jobs: Sequence[FoldJob],
    out_of_fold: Predictions,
) -> CascadePredictions:
    """Predict the test images with the models `jobs` of all members that have a weight in the ensemble.

    With a cascade config, images exit early; the accuracy drop is estimated for images distributed like `out_of_fold`,
    the ensemble's out-of-fold predictions, which the models of `fold_jobs` made. Without one, or with too few test
    images to measure the allowed drop on a part of them, every image gets the full ensemble.
    """
    predictor = _EnsemblePredictor(jobs, ensemble, store, executor, display)
    num_images = len(store.ids)
    if config is None:
        return _predict_full(predictor)
    sample_size = min(config.calibration_size, num_images // TEST_TO_SAMPLE_RATIO)
    if sample_size < MIN_SAMPLE_SIZE or 0 < config.max_accuracy_drop < smallest_drop(sample_size):
        log.info(
            "full ensemble for all test images: a calibration sample of %s of them can't show a drop of accuracy of %s",
            f"{sample_size:,}",
            config.max_accuracy_drop,
        )
        return _predict_full(predictor)
    stages = plan_stages(len(predictor.jobs), predictor.jobs[0].tta)
    sample = np.sort(np.random.default_rng(seed).permutation(num_images)[:sample_size])
    first_fold = _EnsemblePredictor(
        [j for j in fold_jobs if j.fold == fold_jobs[0].fold], ensemble, store, executor, display
    )
    fit = _fit_thresholds(predictor, first_fold, stages, sample, config.max_accuracy_drop, out_of_fold)
    return _predict_with_exits(predictor, stages, sample, fit, config)


def used_models(jobs: Sequence[FoldJob], ensemble: Ensemble) -> list[FoldJob]:
    """Return the models that have a weight in the ensemble, in the order of the cascade.

    Refits first, as they are the best ones, then fold by fold; in each, the member of the largest weight comes first.
    """
    return sorted(
        (job for job in jobs if ensemble.weights[job.member_name] > MIN_WEIGHT),
        key=lambda job: (
            job.fold is not None,
            job.refit if job.fold is None else job.fold,
            -ensemble.weights[job.member_name],
            job.member_name,
        ),
    )


def max_prediction_flops(jobs: Sequence[FoldJob], config: CascadeConfig | None, num_images: int) -> float:
    """Return an upper bound of the FLOPs of predicting the test images, without the calibration sample."""
    passes: float = len(jobs) * len(tta_views(jobs[0].tta))
    if config is not None:
        passes = min(passes, config.max_forward_passes)
    return num_images * passes * sum(forward_flops(job.member, job.task) for job in jobs) / len(jobs)


def format_cascade_stats(stats: CascadeStats, num_images: int) -> str:
    """Format how many images got how many forward passes."""
    full, mean = stats.full_forward_passes, stats.mean_forward_passes
    if stats.expected_accuracy_drop is None:
        return f"full ensemble for {num_images:,} test images: {full} forward passes (models x TTA views) each"
    passes, stages = 0, []
    for number, stage in enumerate(stats.stages, start=1):
        passes += stage.forward_passes
        plural = "" if passes == 1 else "es"
        stages.append(f"stage {number} ({passes} pass{plural} so far) {stage.num_images:,}")
    num_budget_exits = sum(stage.num_budget_exits for stage in stats.stages)
    limited = f"; {num_budget_exits:,} early exits because the compute budget was exhausted" if num_budget_exits else ""
    return (
        f"cascade: images by forward passes (models x TTA views): {', '.join(stages)}; {stats.calibration_size:,} "
        f"calibration images with all {full}; mean {mean:.2f} passes, {full / mean:.1f}x fewer than the full ensemble; "
        f"expected accuracy drop {stats.expected_accuracy_drop:.5f}{limited}"
    )


@dataclass(frozen=True)
class _ThresholdFit:
    probabilities: Probabilities
    thresholds: ExitThresholds
    agreement: Agreement
    num_fold_passes: int
    """Forward passes of each image of the sample by fold models that are not in the ensemble."""


def _predict_full(predictor: "_EnsemblePredictor") -> CascadePredictions:
    num_images, passes = len(predictor.store.ids), len(predictor.jobs) * len(tta_views(predictor.jobs[0].tta))
    probabilities = predictor.run_full_ensemble(f"{STAGE}_0", np.arange(num_images))
    stats = CascadeStats(
        stages=[StageStats(forward_passes=passes, num_images=num_images)],
        full_forward_passes=passes,
        mean_forward_passes=passes,
        agreement=predictor.agreement(),
    )
    return _log_and_pack(predictor.store, probabilities, np.full(num_images, passes), stats)


def _predict_with_exits(
    predictor: "_EnsemblePredictor",
    stages: Sequence[Stage],
    sample: NDArray[np.int64],
    fit: "_ThresholdFit",
    config: CascadeConfig,
) -> CascadePredictions:
    """Run the cascade on all test images but the calibration sample."""
    num_images = len(predictor.store.ids)
    full_passes = sum(map(num_forward_passes, stages))
    probabilities = np.empty((num_images, fit.probabilities.shape[1]), np.float32)
    forward_passes = np.zeros(num_images, np.int64)
    probabilities[sample], forward_passes[sample] = fit.probabilities, full_passes + fit.num_fold_passes
    rows, stats = np.setdiff1d(np.arange(num_images), sample), []
    for index, stage in enumerate(stages):
        if not len(rows):
            break
        is_last = index + 1 == len(stages)
        probabilities[rows] = predictor.run_stage(stage, f"{STAGE}_{index}", rows, keep_logits=not is_last)
        forward_passes[rows] += num_forward_passes(stage)
        num_images_here, num_budget_exits = len(rows), 0
        if not is_last:
            budget = config.max_forward_passes * num_images - float(forward_passes.sum())
            max_images = max(0, int(budget / num_forward_passes(stages[index + 1])))
            below = needs_more_models(probabilities[rows], fit.thresholds.thresholds[index], num_images)
            within_budget = needs_more_models(probabilities[rows], fit.thresholds.thresholds[index], max_images)
            rows, num_budget_exits = rows[within_budget], int(below.sum() - within_budget.sum())
            predictor.discard_other_rows(rows)
        stats.append(
            StageStats(
                forward_passes=num_forward_passes(stage),
                num_images=num_images_here,
                num_budget_exits=num_budget_exits,
            )
        )
    cascade = CascadeStats(
        stages=stats,
        full_forward_passes=full_passes,
        mean_forward_passes=float(forward_passes.mean()),
        agreement=fit.agreement,
        calibration_size=len(sample),
        exit_thresholds=list(fit.thresholds.thresholds),
        expected_accuracy_drop=fit.thresholds.expected_accuracy_drop,
    )
    return _log_and_pack(predictor.store, probabilities, forward_passes, cascade)


def _log_and_pack(
    store: ImageStore, probabilities: Probabilities, forward_passes: NDArray[np.int64], stats: CascadeStats
) -> CascadePredictions:
    log.info("%s", format_cascade_stats(stats, len(store.ids)))
    return CascadePredictions(Predictions.from_probabilities(store.ids, probabilities), forward_passes, stats)


def _fit_thresholds(
    predictor: "_EnsemblePredictor",
    first_fold: "_EnsemblePredictor",
    stages: Sequence[Stage],
    sample: NDArray[np.int64],
    max_accuracy_drop: float,
    out_of_fold: Predictions,
) -> _ThresholdFit:
    """Run the full ensemble on a calibration sample, and fit the exit thresholds."""
    stage_probabilities = [
        predictor.run_stage(stage, f"{CALIBRATION}_{index}", sample, keep_logits=True)
        for index, stage in enumerate(stages)
    ]
    # Out of fold, each image is predicted by the models of one fold: compare with those of one fold on the sample.
    validation_margins = margins(to_probabilities(out_of_fold.logits))
    is_included = predictor.includes(first_fold)
    sample_margins = margins(
        predictor.probabilities_by(first_fold) if is_included else first_fold.run_full_ensemble(CALIBRATION, sample)
    )
    image_weights = importance_weights(validation_margins, sample_margins)
    thresholds = fit_exit_thresholds(stage_probabilities, max_accuracy_drop, image_weights)
    agreement = predictor.agreement()
    predictor.reset()
    num_fold_passes = 0 if is_included else len(first_fold.jobs) * len(tta_views(first_fold.jobs[0].tta))
    return _ThresholdFit(stage_probabilities[-1], thresholds, agreement, num_fold_passes)


class _EnsemblePredictor:
    """The trained models in the order of the cascade.

    Keeps each model's logits of the images that later stages may need, and no more.
    """

    def __init__(
        self,
        jobs: Sequence[FoldJob],
        ensemble: Ensemble,
        store: ImageStore,
        executor: Executor,
        display: Display,
    ) -> None:
        self.jobs = used_models(jobs, ensemble)
        self.store = store
        self._ensemble, self._executor, self._display = ensemble, executor, display
        self.reset()

    def reset(self) -> None:
        """Discard all logits."""
        self._parts: list[list[tuple[float, Predictions]]] = [[] for _ in self.jobs]
        self._labels: dict[int, NDArray[np.uint8]] = {}

    def run_stage(self, stage: Stage, name: str, rows: NDArray[np.int64], *, keep_logits: bool) -> Probabilities:
        """Run a stage on some images; return the ensemble's probabilities [rows, classes] after all stages so far.

        Without `keep_logits`, for the last stage, each model's logits are dropped as soon as they are averaged.
        """
        requests = [(self.jobs[p.model], PredictRequest(rows, p.views, name)) for p in stage]
        view_weights = {p.model: sum(view.weight for view in p.views) for p in stage}
        predicted = self._executor.predict(requests, self.store, self._display)

        def members() -> Iterator[tuple[str, Predictions]]:
            for model, job in enumerate(self.jobs):
                if model in view_weights:
                    self._parts[model].append((view_weights[model], next(predicted)))
                if self._parts[model]:
                    predictions = self._mean(model)
                    self._labels[model] = predictions.labels.astype(np.uint8)
                    if not keep_logits:
                        self._parts[model] = []
                    yield job.member_name, predictions

        # An error between two requests must not leave the executor suspended.
        with closing(predicted):
            return self._ensemble.probabilities(members())[1]

    def discard_other_rows(self, rows: NDArray[np.int64]) -> None:
        """Discard the logits of all images but some rows of the store."""
        ids = self.store.ids[rows]
        self._parts = [[(weight, part.select(ids)) for weight, part in parts] for parts in self._parts]

    def run_full_ensemble(self, name: str, rows: NDArray[np.int64]) -> Probabilities:
        """Run all models with all TTA views on some images; return the ensemble's probabilities [rows, classes]."""
        (stage,) = plan_full_ensemble(len(self.jobs), self.jobs[0].tta)
        return self.run_stage(stage, name, rows, keep_logits=False)

    def includes(self, others: "_EnsemblePredictor") -> bool:
        """Whether the models of `others` are among this predictor's."""
        return set(map(str, others.jobs)) <= set(map(str, self.jobs))

    def probabilities_by(self, others: "_EnsemblePredictor") -> Probabilities:
        """Return the ensemble's probabilities by included models alone, of images that passed all stages."""
        names = list(map(str, self.jobs))
        models = [names.index(str(job)) for job in others.jobs]
        return self._ensemble.probabilities((self.jobs[model].member_name, self._mean(model)) for model in models)[1]

    def agreement(self) -> Agreement:
        """Return the agreement of each pair of models; every stage must have run on the same images."""
        labels = list(self._labels.values())
        rates = [[float((first == second).mean()) for second in labels] for first in labels]
        return Agreement(num_images=len(labels[0]), models=[str(job) for job in self.jobs], rates=rates)

    def _mean(self, model: int) -> Predictions:
        """Return the mean of a model's logits over all TTA views so far."""
        return mean_logits([part for _, part in self._parts[model]], [weight for weight, _ in self._parts[model]])
