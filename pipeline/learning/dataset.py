"""Images + augmentation -> batches of one epoch, the same pixels for any number of workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import AugmentStep
from pipeline.errors import TrainingError
from pipeline.learning.augment import Augmentation
from pipeline.learning.seeding import derive_seed

# Mean and standard deviation of the training pixels of CIFAR-10, per channel, on the scale 0 to 1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

Key = tuple[int, int]  # the epoch and the row; in the key, so that it reaches workers that outlive an epoch
Batch = tuple[Tensor, Tensor]


class AugmentedImages(Dataset[Batch]):
    """Rows of uint8 images [N, 32, 32, 3] with classes [N]; each batch is augmented by a seed of its own."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        classes: NDArray[np.int64],
        augment: Sequence[AugmentStep],
        seed: int,
        *,
        alternating_flip: bool = False,
    ) -> None:
        self._images, self._classes, self._seed = images, classes, seed
        self._augmentation = Augmentation(augment)
        coins = np.random.default_rng(derive_seed(seed, "mirror")).integers(2, size=len(images))
        self._first_mirrored = coins if alternating_flip else None

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Return a whole batch of one epoch at once: uint8 [batch, 32, 32, 3] and classes [batch]."""
        epoch, first = keys[0]
        rows = np.array([row for _, row in keys])
        images = self._images[rows]
        if self._first_mirrored is not None:
            mirrored = (self._first_mirrored[rows] + epoch) % 2 == 1
            images[mirrored] = images[mirrored, :, ::-1]
        # No row comes twice in an epoch, so its first row names a batch.
        images = self._augmentation(images, derive_seed(self._seed, epoch, first))
        return torch.from_numpy(images), torch.from_numpy(self._classes[rows])


class EpochBatchSampler:
    """The keys of the batches of one epoch, in an order that the seed and the epoch give; no short last batch."""

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
    """Turn the death of a data worker, which torch raises wherever the main thread is, into a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a data worker was killed, most often because the memory ran out; what was finished is saved: give the "
            "same command again with a smaller machine.num_workers (0 needs no worker)"
        ) from None


class TrainLoader:
    """Batches of augmented images, epoch by epoch."""

    def __init__(self, dataset: AugmentedImages, batch_size: int, seed: int, num_workers: int) -> None:
        self._dataset, self._batches = dataset, EpochBatchSampler(len(dataset), batch_size, seed)
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=identity_collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0)."""
        self._batches.epoch = epoch
        yield from self._loader

    def seen(self, row: int, epoch: int) -> NDArray[np.uint8] | None:
        """Return the image of a row as an epoch (from 0) shows it; None if it is left over after the last batch."""
        self._batches.epoch = epoch
        for keys in self._batches:
            if (epoch, row) in keys:
                return self._dataset.__getitems__(keys)[0][keys.index((epoch, row))].numpy()
        return None


def identity_collate(batch: Any) -> Any:
    return batch


def shrink(images: Tensor, size: int) -> Tensor:
    """Scale float images [batch, 3, height, width] to `size` pixels in height and width, if they are not of it."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """Turn uint8 [batch, 32, 32, 3] into float32 [batch, 3, 32, 32] of mean 0 and deviation 1, channels last."""
    mean = 255 * torch.tensor(MEAN, device=device)
    scale = 1 / (255 * torch.tensor(STD, device=device))
    return ((images.to(device).float() - mean) * scale).permute(0, 3, 1, 2)


def unnormalize(inputs: Tensor) -> NDArray[np.uint8]:
    """Turn what `normalize` gave back into uint8 [batch, height, width, 3]."""
    pixels = 255 * (inputs.permute(0, 2, 3, 1).cpu() * torch.tensor(STD) + torch.tensor(MEAN))
    return pixels.round().clamp(0, 255).to(torch.uint8).numpy()
