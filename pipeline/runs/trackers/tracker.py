"""The interface of all trackers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Values = Mapping[str, float]


def out_of_fold(scores: Values) -> dict[str, float]:
    """Return scores under the names that all trackers give them."""
    return {f"out_of_fold/{name}": value for name, value in scores.items()}


@dataclass(frozen=True)
class TrackedRun:
    """A run of the pipeline: the group of its models."""

    id: str
    """Of this run alone: one that is started again under the same name has another."""
    name: str
    competition: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class TrackedModel:
    """A member on a fold, or refitted."""

    name: str
    kind: Literal["fold", "refit"]
    folder: Path
    config: Mapping[str, Any]
    num_epochs: int


class Tracker(Protocol):
    """Records the models of a run, which may train side by side. Raises any exception of its client."""

    def log_epoch(self, model: TrackedModel, row: Values) -> None:
        """Record an epoch: its number, `epoch` from 1, and its metrics; the first call may follow a resume."""
        ...

    def finish_model(self, model: TrackedModel, scores: Values) -> None:
        """Record the out-of-fold scores of a finished model, which are empty for a refit."""
        ...

    def finish_run(self, scores: Values, artefacts: Sequence[Path]) -> None:
        """Record the ensemble's out-of-fold scores, and the files that the run ends with."""
        ...

    def close(self, *, failed: bool) -> None:
        """End what is open; `failed`: the command was interrupted or has failed."""
        ...
