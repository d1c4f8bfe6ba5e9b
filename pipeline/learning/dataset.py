"""Images + augmentation -> the batches of an epoch; the same pixels for any number of workers."""

import multiprocessing
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.learning.augment import Augmentation
from pipeline.learning.data_workers import Watchdog, check_semaphores, start_errors
from pipeline.learning.seeding import derive_seed
from pipeline.member_config import AugmentStep

Key = tuple[int, int]  # epoch and row; the epoch is in the key so that it reaches persistent workers
Batch = tuple[Tensor, Tensor]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


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
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        return self._num_images // self._batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng(derive_seed(self._seed, "order", self.epoch)).permutation(self._num_images)
        first, end = self.first_batch * self._batch_size, len(self) * self._batch_size
        for start in range(first, end, self._batch_size):
            yield [(self.epoch, int(row)) for row in order[start : start + self._batch_size]]


class TrainLoader:
    """Batches of augmented images, epoch by epoch. Its workers end with the `with` block."""

    def __init__(self, dataset: AugmentedImages, batch_size: int, seed: int, num_workers: int) -> None:
        self._dataset, self._sampler = dataset, EpochBatchSampler(len(dataset), batch_size, seed)
        self._num_workers = num_workers
        self._workers: set[BaseProcess] = set()
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=_as_arrays,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, within seconds even if they hang."""
        loader, self._loader = self._loader, None
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            # It ends the workers when its last reference is gone, but the traceback of an error refers to it. That
            # error must not be replaced by the RuntimeError of a lost worker: Ctrl-C ends the workers as well.
            with suppress(RuntimeError):
                iterator._shutdown_workers()
        for worker in self._workers:
            worker.kill()
            worker.join()

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, epoch: int, first_batch: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch, all from 0. Raises TrainingError for workers that do not start, or hang."""
        self._sampler.epoch, self._sampler.first_batch = epoch, first_batch
        with Watchdog(self._workers) as watchdog:
            with watchdog.waiting():  # of a second epoch the workers confirm the start
                batches = self._start()
            while True:
                with watchdog.waiting():
                    batch = next(batches, None)
                if batch is None:
                    return
                images, labels = batch
                yield torch.from_numpy(images), torch.from_numpy(labels)

    def augmented_image(self, row: int, epoch: int) -> NDArray[np.uint8] | None:
        """Return a row's image as augmented in an epoch (from 0); None if it was in the dropped last batch."""
        self._sampler.epoch, self._sampler.first_batch = epoch, 0
        for keys in self._sampler:
            if (epoch, row) in keys:
                return self._dataset.__getitems__(keys)[0][keys.index((epoch, row))].numpy()
        return None

    def _start(self) -> Iterator[Arrays]:
        """Return the batches of the sampler's epoch; the first call starts the workers."""
        assert self._loader is not None, "the loader is closed"
        children = set(multiprocessing.active_children())
        with start_errors():
            if self._num_workers and not self._workers:
                check_semaphores(self._num_workers)
            batches = iter(self._loader)
        self._workers |= set(multiprocessing.active_children()) - children
        # This process would keep the workers' pipe open: when the last one ends within a batch, it would read forever.
        writer = getattr(getattr(batches, "_worker_result_queue", None), "_writer", None)
        if writer is not None:
            writer.close()
        return batches


def _as_arrays(batch: Any) -> Arrays:
    """Return a batch as arrays, which a worker sends through a pipe; tensors would have to fit into /dev/shm."""
    images, labels = batch
    return images.numpy(), labels.numpy()
