"""Image files -> the classes that a run's full ensemble predicts."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.config import MachineConfig
from pipeline.data.image_files import find_image_files, read_image_file
from pipeline.errors import InputError
from pipeline.learning.device import set_up_machine
from pipeline.results import Classification
from pipeline.task import Image
from pipeline.trained_ensemble import EnsemblePredictor, TrainedEnsemble

BATCH_SIZE = 256  # images in memory
# The machine of the run may have been another one; compiling takes longer than thousands of images.
MACHINE = MachineConfig(compile="off")


def classify(
    trained: TrainedEnsemble, paths: Iterable[Path], on_failure: Callable[[str], None]
) -> Iterator[Classification]:
    """Yield the class of each image, and of all images in each folder, in their order.

    `on_failure` is called with one line for everything that can't be read.
    """
    predictor = EnsemblePredictor(trained, set_up_machine(MACHINE))
    images = _read_all(paths, trained.task.image_size, on_failure)
    while batch := list(islice(images, BATCH_SIZE)):
        probabilities = predictor.probabilities(np.stack([image for _, image in batch]))
        for (path, _), row in zip(batch, probabilities, strict=True):
            first, second = np.argsort(-row, kind="stable")[:2]
            names = trained.task.class_names
            yield Classification(
                file=str(path),
                label=names[first],
                probability=round(float(row[first]), 6),
                second_label=names[second],
                second_probability=round(float(row[second]), 6),
            )


def _read_all(paths: Iterable[Path], size: int, on_failure: Callable[[str], None]) -> Iterator[tuple[Path, Image]]:
    for path in paths:
        for found in find_image_files(path):
            try:
                if isinstance(found, InputError):
                    raise found
                yield found, read_image_file(found, size)
            except InputError as error:
                on_failure(str(error))
