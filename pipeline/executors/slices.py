"""The slices of a request to predict test images, some of them saved before, others still to come."""

from pipeline.predictions import Predictions, join


class Slices:
    """The predictions of a request, until all its slices have arrived."""

    def __init__(self, saved: dict[int, Predictions], num_missing: int) -> None:
        self._parts, self._num_missing = saved, num_missing

    @property
    def is_complete(self) -> bool:
        """Whether all slices have arrived."""
        return self._num_missing == 0

    def add(self, index: int, predictions: Predictions) -> None:
        """Add a slice that was missing."""
        self._parts[index] = predictions
        self._num_missing -= 1

    def join(self) -> Predictions:
        """Return all predictions, and release them."""
        parts, self._parts = self._parts, {}
        return join(list(parts.values()))
