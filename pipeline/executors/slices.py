"""Requests for predictions in slices: some are saved, the others arrive in any order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.data.image_store import ImageStore
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.predictions import Predictions, join


@dataclass(frozen=True)
class MissingSlice:
    """A slice that is to be predicted."""

    request_index: int
    index: int
    """Among the slices of its request."""
    job: FoldJob
    request: PredictRequest
    """For the rows of the slice alone."""

    @property
    def num_images(self) -> int:
        """The number of its test images."""
        return len(self.request.rows)

    def __str__(self) -> str:
        return f"{self.job} {self.request.stage} slice {self.index}"


class SlicedRequests:
    """The predictions of some requests, until all their slices have arrived."""

    def __init__(self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore) -> None:
        self._parts: list[dict[int, Predictions]] = []
        self._num_missing: list[int] = []
        self._num_joined = 0
        self.missing: list[MissingSlice] = []
        """In the order of the requests."""
        for request_index, (job, request) in enumerate(requests):
            saved, missing = job.load_slices(store, request)
            self._parts.append(saved)
            self._num_missing.append(len(missing))
            for index, rows in missing.items():
                self.missing.append(MissingSlice(request_index, index, job, replace(request, rows=rows)))
        self.num_images = sum(each.num_images for each in self.missing)
        """Test images of all missing slices."""
        self.flops = sum(each.job.prediction_flops(each.num_images, each.request) for each in self.missing)
        """Floating point operations of all missing slices."""

    def add(self, missing: MissingSlice, predictions: Predictions) -> bool:
        """Add a slice that was missing; return whether its request is complete now."""
        self._parts[missing.request_index][missing.index] = predictions
        self._num_missing[missing.request_index] -= 1
        return not self._num_missing[missing.request_index]

    def joined(self) -> Iterator[Predictions]:
        """Yield the predictions of the requests, in order, up to the first that is not complete, and release them."""
        while self._num_joined < len(self._parts) and not self._num_missing[self._num_joined]:
            parts, self._parts[self._num_joined] = self._parts[self._num_joined], {}
            self._num_joined += 1
            yield join(list(parts.values()))
