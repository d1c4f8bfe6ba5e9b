"""folds.csv: id, label, fold and near-duplicate group of every training image."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.files import write_text
from pipeline.task import Ids

HEADER = "id,label,fold,group"


@dataclass(frozen=True)
class FoldTable:
    """Training ids [N], ascending, each with its label, its validation fold (from 0) and its near-duplicate group."""

    ids: Ids
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    groups: NDArray[np.int64]

    def num_training_images(self, fold: int | None) -> int:
        """Return how many images the model of a fold (from 0) is trained on; of None, a refit: all."""
        return int((~self.is_validation(fold)).sum())

    def labels_for(self, ids: Ids) -> NDArray[np.int64]:
        """Return the labels of some ids, in their order."""
        return self.labels[np.searchsorted(self.ids, ids)]

    def is_validation(self, fold: int | None) -> NDArray[np.bool_]:
        """Return which rows [N] are the validation images of a fold, of None no row; the others are training images."""
        return np.zeros(len(self.ids), bool) if fold is None else self.folds == fold

    def select_folds(self, folds: Collection[int]) -> Self:
        """Return the rows that are validation images of some folds."""
        rows = np.isin(self.folds, list(folds))
        return (
            self
            if rows.all()
            else replace(
                self, ids=self.ids[rows], labels=self.labels[rows], folds=self.folds[rows], groups=self.groups[rows]
            )
        )

    def save(self, path: Path) -> None:
        """Write the table, atomically."""
        columns = (self.ids.tolist(), self.labels.tolist(), self.folds.tolist(), self.groups.tolist())
        rows = "".join(f"{i},{label},{fold},{group}\n" for i, label, fold, group in zip(*columns, strict=True))
        write_text(path, f"{HEADER}\n{rows}")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the table. Raises RunError if it is missing or corrupted."""
        try:
            table = np.loadtxt(path, dtype=np.int64, delimiter=",", skiprows=1, ndmin=2)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} can't be read ({error}); choose another --run") from None
        if table.shape[1:] != (len(HEADER.split(",")),):
            raise RunError(f"{path} does not have the columns {HEADER}; choose another --run")
        return cls(*table.T)
