"""Fold models -> what their predictions of out-of-fold images depend on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.image_store import ImageStore
from pipeline.ensemble import Ensemble
from pipeline.executors.fold_job import FoldJob
from pipeline.learning.attribution import occlusion_maps
from pipeline.learning.device import Machine
from pipeline.report.run_data import Attribute
from pipeline.runs.fold_table import FoldTable


def attribute_with(
    jobs: Sequence[FoldJob], ensemble: Ensemble, table: FoldTable, store: ImageStore, machine: Machine
) -> Attribute:
    """Return a function: rows of the fold table and a class for each -> occlusion maps.

    Of the member with the largest ensemble weight: of its fold model that predicted the image out of fold.
    """
    member = max(ensemble.weights, key=lambda name: ensemble.weights[name])
    eager = replace(machine, compile=False)  # the batches are few and of many sizes

    def attribute(rows: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        images = store.images[np.searchsorted(store.ids, table.ids[rows])]
        maps = np.zeros(images.shape[:3], np.float32)
        for job in jobs:
            selected = table.folds[rows] == job.fold
            if job.member_name == member and selected.any():
                model, spec = job.load_for_inference(eager)
                maps[selected] = occlusion_maps(model, spec, images[selected], classes[selected], eager)
        return maps

    return attribute
