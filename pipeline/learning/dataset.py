"""Images + augmentation -> the batches of an epoch; the same pixels for any number of workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import AugmentStep
from pipeline.errors import TrainingError
from pipeline.learning.augment import Augmentation
from pipeline.learning.seeding import derive_seed

Key = tuple[int, int]  # epoch and row; the epoch is in the key so that it reaches persistent workers
Batch = tuple[Tensor, Tensor]


class AugmentedImages(Dataset[Batch]):
    """uint8 images [N, height, width, 3] with labels [N]; each batch is augmented with a seed of its own."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        augment: Sequence[AugmentStep],
        seed: int,
        *,
        alternating_flip: bool = False,
    ) -> None:
        self._images, self._labels, self._seed = images, labels, seed
        self._augmentation = Augmentation(augment, images.shape[1:])
        first_flip = np.random.default_rng(derive_seed(seed, "mirror")).integers(2, size=len(images))
        self._first_flip = first_flip if alternating_flip else None

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Return a whole batch of one epoch: uint8 images [batch, height, width, 3] and labels [batch]."""
        epoch, first_row = keys[0]
        rows = np.array([row for _, row in keys])
        images = self._images[rows]
        if self._first_flip is not None:
            flipped = (self._first_flip[rows] + epoch) % 2 == 1
            images[flipped] = images[flipped, :, ::-1]
        # A row occurs once per epoch, so the first row identifies the batch.
        images = self._augmentation(images, derive_seed(self._seed, epoch, first_row))
        return torch.from_numpy(images), torch.from_numpy(self._labels[rows])


class EpochBatchSampler:
    """The keys of an epoch's batches, shuffled by seed and epoch; an incomplete last batch is dropped."""

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self._num_images, self._batch_size, self._seed = num_images, min(batch_size, num_images), seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._num_images // self._batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng(derive_seed(self._seed, "order", self.epoch)).permutation(self._num_images)
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            yield [(self.epoch, int(row)) for row in order[start : start + self._batch_size]]


@contextmanager
def dataloader_errors() -> Iterator[None]:
    """Convert the error of a killed DataLoader worker, which torch raises in any code of the main thread.

    Raises TrainingError.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a DataLoader worker was killed, most often because memory ran out; progress is saved: rerun the same "
            "command with a smaller machine.num_workers (0 needs no worker)"
        ) from None


class TrainLoader:
    """Batches of augmented images, epoch by epoch."""

    def __init__(self, dataset: AugmentedImages, batch_size: int, seed: int, num_workers: int) -> None:
        self._dataset, self._sampler = dataset, EpochBatchSampler(len(dataset), batch_size, seed)
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=_identity_collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0)."""
        self._sampler.epoch = epoch
        yield from self._loader

    def augmented_image(self, row: int, epoch: int) -> NDArray[np.uint8] | None:
        """Return a row's image as augmented in an epoch (from 0); None if it was in the dropped last batch."""
        self._sampler.epoch = epoch
        for keys in self._sampler:
            if (epoch, row) in keys:
                return self._dataset.__getitems__(keys)[0][keys.index((epoch, row))].numpy()
        return None


def _identity_collate(batch: Any) -> Any:
    return batch
