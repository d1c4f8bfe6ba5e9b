"""A run's folder, images and predictions -> the data of its report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.data.image_store import ImageStore
from pipeline.ensemble import Ensemble, Probabilities
from pipeline.errors import RunError
from pipeline.evaluate import Evaluation
from pipeline.ledger import Upload
from pipeline.predictions import CascadePredictions
from pipeline.results import EnsembleMetrics, Scores, StageTime
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import RunFolder
from pipeline.task import Split, Task
from pipeline.temperature_scaling import to_probabilities

Images = NDArray[np.uint8]
History = list[dict[str, float]]
Attribute = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Rows of out-of-fold images, and a class for each -> maps [N, height, width] of what their predictions depend on."""


@dataclass(frozen=True)
class RunData:
    """A run whose folds are all trained. Rows of `table` and `images` are the images that are predicted out of fold."""

    name: str
    task: Task
    config: Config
    environment: Mapping[str, Any]
    times: list[StageTime]
    uploads: list[Upload]
    table: FoldTable
    images: Images
    """[N, height, width, 3]."""
    training_table: FoldTable
    """Of all training images: those of folds that the run does not train as well."""
    training_images: Images
    evaluation: Evaluation
    histories: Mapping[str, Mapping[int, History]]
    """member -> fold -> epochs."""
    refit_histories: Mapping[str, Mapping[int, History]]
    test: CascadePredictions | None
    """None: not predicted yet."""
    test_images: Images | None
    """In the order of the predicted ids; None without test predictions."""
    attribute: Attribute | None = None
    """None: the models are not at hand."""

    @property
    def ensemble(self) -> Ensemble:
        """The fitted ensemble."""
        assert self.evaluation.ensemble is not None, "some folds are not trained"
        return self.evaluation.ensemble

    @property
    def ensemble_metrics(self) -> EnsembleMetrics:
        """The ensemble's out-of-fold metrics."""
        assert self.evaluation.metrics.ensemble is not None, "some folds are not trained"
        return self.evaluation.metrics.ensemble

    @property
    def probabilities(self) -> Probabilities:
        """The ensemble's out-of-fold probabilities [N, classes]."""
        assert self.evaluation.ensemble_predictions is not None, "some folds are not trained"
        return to_probabilities(self.evaluation.ensemble_predictions.logits_for(self.table.ids))

    def out_of_fold_scores(self, member: str) -> Scores:
        """Return the out-of-fold scores of a member."""
        scores = self.evaluation.metrics.members[member].out_of_fold
        assert scores is not None, "some folds are not trained"
        return scores


def collect(
    run: RunFolder,
    task: Task,
    stores: Mapping[Split, ImageStore],
    evaluation: Evaluation,
    uploads: list[Upload],
    test: CascadePredictions | None,
    attribute: Attribute | None = None,
) -> RunData:
    """Read config, environment, times and histories of a run whose folds are all trained.

    Raises RunError for test predictions of other images than those in `stores`, and for corrupted files.
    """
    config = run.config()
    if test is not None and not np.array_equal(test.predictions.ids, stores["test"].ids):
        raise RunError(
            f"the run {run.name} predicted {len(test.predictions.ids):,} test images with other ids than the "
            f"{len(stores['test'].ids):,} of the input; pass the run's own input folder with --input"
        )
    folds, table, images = config.folds.trained, evaluation.table, stores["train"].images
    is_validated = np.isin(stores["train"].ids, table.ids)
    return RunData(
        name=run.name,
        task=task,
        config=config,
        environment=run.environment(),
        times=run.times(),
        uploads=uploads,
        table=table,
        images=images if is_validated.all() else images[is_validated],
        training_table=table if is_validated.all() else run.folds(),
        training_images=images,
        evaluation=evaluation,
        histories={name: {fold: run.fold(name, fold).history() for fold in folds} for name in config.members},
        refit_histories={
            name: {number: run.refit(name, number).history() for number in metrics.refits}
            for name, metrics in evaluation.metrics.members.items()
        },
        test=test,
        test_images=None if test is None else stores["test"].images,
        attribute=attribute,
    )
