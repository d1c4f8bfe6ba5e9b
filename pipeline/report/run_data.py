"""A run's folder and its images -> all that the page tells, as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.task import Split
from pipeline.data.image_cache import ImageStore
from pipeline.config import Config
from pipeline.errors import RunError
from pipeline.predictions import Predictions
from pipeline.runs.run_folder import FoldTable, RunFolder
from pipeline.ledger import Upload

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Predicted:
    """What the run says of the test images, in the order of their ids."""

    predictions: Predictions
    passes: NDArray[np.int64]
    account: Mapping[str, Any]
    images: Images


@dataclass(frozen=True)
class RunData:
    """A run whose folds are all trained. Rows of training images are those of `table`."""

    name: str
    config: Config
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]
    times: list[dict[str, Any]]
    uploads: list[Upload]
    table: FoldTable
    images: Images
    members: Mapping[str, Predictions]
    """Each member's out-of-fold predictions, before the temperatures."""
    blended: Predictions
    """Those of the blend, at the temperatures."""
    histories: Mapping[str, Mapping[str, list[dict[str, float]]]]
    """member -> fold -> epochs."""
    test: Predicted | None
    """None: not predicted yet."""


def gather(
    run: RunFolder, metrics: Mapping[str, Any], stores: Mapping[Split, ImageStore], uploads: list[Upload]
) -> RunData:
    """Read the folder of a run whose folds are all trained on these images. Raises RunError for a damaged file."""
    config, table = run.config(), run.folds()
    folds = [str(fold) for fold in range(config.folds.num_folds)]
    return RunData(
        name=run.name,
        config=config,
        metrics=metrics,
        environment=run.load_json("environment.json"),
        times=run.times(),
        uploads=uploads,
        table=table,
        images=stores["train"].images,
        members={name: run.out_of_fold(name) for name in config.members},
        blended=run.ensemble_out_of_fold(),
        histories={name: {fold: run.fold(name, int(fold)).history() for fold in folds} for name in config.members},
        test=_predicted(run, stores["test"]) if run.has_test else None,
    )


def _predicted(run: RunFolder, store: ImageStore) -> Predicted:
    predictions = run.test()
    if not np.array_equal(store.ids, predictions.ids):
        raise RunError(f"the run {run.name} predicted other test images; give its own folder with --input")
    return Predicted(predictions, run.test_passes(), run.load_json("passes.json"), store.images)
