"""Out-of-fold logits -> metrics and the fitted ensemble."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.config import Config
from pipeline.config_files import differences
from pipeline.ensemble import Ensemble
from pipeline.error_messages import on_one_line
from pipeline.errors import RunError
from pipeline.learning.metrics import confusion, paired_test, score, score_classes
from pipeline.predictions import Predictions, join
from pipeline.results import (
    Comparison,
    Compute,
    EnsembleMetrics,
    FoldCompute,
    MemberMetrics,
    Metrics,
    Scores,
    job_name,
    refit_name,
)
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import ENSEMBLE, RunFolder
from pipeline.task import Labels, Task
from pipeline.temperature_scaling import to_probabilities

FoldPredictions = Mapping[tuple[str, int], Predictions]  # by member and fold


@dataclass(frozen=True)
class Evaluation:
    """The cross-validation of a run. Without an ensemble until all its folds are trained."""

    metrics: Metrics
    table: FoldTable
    """Of the images that are predicted out of fold: those of the folds that the run trains."""
    member_predictions: Mapping[str, Predictions]
    """Out-of-fold predictions of the members whose folds are all trained."""
    ensemble: Ensemble | None = None
    ensemble_predictions: Predictions | None = None
    """Out-of-fold predictions of the ensemble, as log probabilities."""


def validate(run: RunFolder, task: Task) -> Evaluation:
    """Evaluate the trained folds of a run."""
    config = run.config()
    return evaluate(run, config, task, run.folds(), load_fold_predictions(run, config))


def load_fold_predictions(run: RunFolder, config: Config) -> dict[tuple[str, int], Predictions]:
    """Return the out-of-fold predictions of all trained folds."""
    folders = {(name, fold): run.fold(name, fold) for name in config.members for fold in config.folds.trained}
    return {key: folder.out_of_fold() for key, folder in folders.items() if folder.is_trained}


def evaluate(run: RunFolder, config: Config, task: Task, table: FoldTable, predictions: FoldPredictions) -> Evaluation:
    """Score the trained folds and members, fit the ensemble on them, and save metrics.json and ensemble.json."""
    folds, validated = config.folds.trained, table.select_folds(config.folds.trained)
    members, member_metrics, untrained, untrained_refits = {}, {}, [], []
    for name in config.members:
        trained = {fold: predictions[name, fold] for fold in folds if (name, fold) in predictions}
        untrained += [
            _describe_untrained(job_name(name, fold), run.fold(name, fold)) for fold in folds if fold not in trained
        ]
        if len(trained) == len(folds):
            members[name] = join(list(trained.values()))
        refits = [number for number in range(config.refit.models) if run.refit(name, number).is_trained]
        untrained_refits += [
            _describe_untrained(refit_name(name, number), run.refit(name, number))
            for number in range(config.refit.models)
            if number not in refits
        ]
        member_metrics[name] = MemberMetrics(
            folds={fold: score_out_of_fold(part, table) for fold, part in trained.items()},
            compute=_compute(run, config, task, name, trained, refits, table),
            out_of_fold=score_out_of_fold(members[name], table) if name in members else None,
            refits=refits,
        )
    metrics = Metrics(members=member_metrics, untrained_folds=untrained, untrained_refits=untrained_refits)
    if untrained:
        evaluation = Evaluation(metrics, validated, members)
    else:
        logits = {name: part.logits_for(validated.ids) for name, part in members.items()}
        ensemble = Ensemble.fit(logits, validated.labels)
        combined = ensemble.combine(members.items())
        metrics = metrics.model_copy(update={"ensemble": _ensemble_metrics(ensemble, combined, validated, task)})
        evaluation = Evaluation(metrics, validated, members, ensemble, combined)
        run.save_json(ENSEMBLE, ensemble.to_json())
    run.save_metrics(metrics)
    return evaluation


def load_ensemble_predictions(run: RunFolder) -> Predictions:
    """Return the ensemble's out-of-fold predictions of an evaluated run. Raises RunError if a file is missing."""
    config = run.config()
    ensemble = load_ensemble(run, config)
    folds = config.folds.trained
    members = ((name, join([run.fold(name, fold).out_of_fold() for fold in folds])) for name in config.members)
    return ensemble.combine(members)


def compare_runs(first: RunFolder, second: RunFolder) -> Comparison:
    """Return how two runs differ in config and out-of-fold scores, with McNemar's test.

    Raises RunError if they have no images in common, or label them differently.
    """
    predictions = [load_ensemble_predictions(run) for run in (first, second)]
    tables = [run.folds() for run in (first, second)]
    ids = np.intersect1d(predictions[0].ids, predictions[1].ids)
    labels, other_labels = (table.labels_for(ids) for table in tables)
    if not len(ids) or not np.array_equal(labels, other_labels):
        raise RunError(
            f"{first.name} and {second.name} can't be compared: they have no images in common, or label them "
            "differently"
        )
    probabilities = [to_probabilities(part.logits_for(ids)) for part in predictions]
    correct = [part.argmax(1) == labels for part in probabilities]
    return Comparison(
        config=differences(first.config().experiment(), second.config().experiment()),
        scores=(score(probabilities[0], labels), score(probabilities[1], labels)),
        test=paired_test(*correct),
    )


def score_test_images(predictions: Predictions, labels: Labels) -> Scores:
    """Score the test images whose labels are known: those of the synthetic dataset, or torchvision's."""
    return score(to_probabilities(predictions.logits_for(labels.ids)), labels.labels)


def load_ensemble(run: RunFolder, config: Config) -> Ensemble:
    """Return the ensemble of an evaluated run. Raises RunError if it is missing, corrupted, or of other members."""
    if not (run.path / ENSEMBLE).exists():
        raise RunError(
            f"the run {run.name} has no ensemble yet: train all its folds (python run.py train --run {run.name}, with "
            "the --input that it was started with)"
        )
    values = run.load_json(ENSEMBLE)
    try:
        ensemble = Ensemble.from_json(values)
    except ValueError as error:
        raise RunError(f"{run.path / ENSEMBLE} can't be read ({on_one_line(error)}); {_validate_again(run)}") from None
    if ensemble.weights.keys() != config.members.keys():
        raise RunError(f"{run.path / ENSEMBLE} has other members than the config; {_validate_again(run)}")
    return ensemble


def _validate_again(run: RunFolder) -> str:
    return f"python run.py validate --run {run.name} writes it again"


def score_out_of_fold(predictions: Predictions, table: FoldTable) -> Scores:
    """Score the predictions of a fold or member on its validation images."""
    return score(to_probabilities(predictions.logits), table.labels_for(predictions.ids))


def _ensemble_metrics(ensemble: Ensemble, combined: Predictions, table: FoldTable, task: Task) -> EnsembleMetrics:
    probabilities = to_probabilities(combined.logits)
    matrix = confusion(probabilities, table.labels)
    return EnsembleMetrics(
        temperatures=dict(ensemble.temperatures),
        weights=dict(ensemble.weights),
        scores=score(probabilities, table.labels),
        per_class=score_classes(matrix, task.class_names),
        confusion_matrix=matrix.tolist(),
    )


def _compute(
    run: RunFolder,
    config: Config,
    task: Task,
    name: str,
    folds: Collection[int],
    refits: Collection[int],
    table: FoldTable,
) -> Compute:
    trained = [
        *((job_name(name, fold), fold, run.fold(name, fold)) for fold in folds),
        *((refit_name(name, number), None, run.refit(name, number)) for number in refits),
    ]
    parts = [
        folder.compute() or _fold_compute(config, task, name, table.num_training_images(fold))
        for _, fold, folder in trained
    ]
    jobs_at_once = run.arrangement().jobs_at_once
    return Compute(
        training_flops=sum(part.training_flops for part in parts),
        training_seconds=sum(
            epoch["seconds"] / jobs_at_once.get(job, 1) for job, _, folder in trained for epoch in folder.history()
        ),
        prediction_flops_per_image=parts[0].prediction_flops_per_image if parts else 0.0,
    )


def _fold_compute(config: Config, task: Task, name: str, num_images: int) -> FoldCompute:
    """Return what a fold takes whose folder does not say it."""
    from pipeline.learning.flops import fold_compute  # imports torch and timm, which takes seconds

    return fold_compute(config.members[name], task, num_images, config.predict.tta)


def _describe_untrained(name: str, folder: FoldFolder) -> str:
    corrupted = "".join(f" ({path.name} is corrupted or missing)" for path in folder.corrupted())
    return f"{name}{corrupted}"
