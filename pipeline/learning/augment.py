"""A list in the recipe -> an albumentations transform. The only file that imports albumentations.

albumentations 2.0.8 is the last release under the MIT licence. To add an augmentation: put its name in ALLOWED.
"""

import os
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AugmentStep
from pipeline.errors import ConfigError

# Without it, importing albumentations asks the network for its newest version, in every process.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2

Images = NDArray[np.uint8]

ALLOWED = (
    "Affine",
    "CLAHE",
    "CoarseDropout",
    "ColorJitter",
    "Equalize",
    "GaussNoise",
    "GaussianBlur",
    "HorizontalFlip",
    "HueSaturationValue",
    "Pad",
    "Posterize",
    "RandomBrightnessContrast",
    "RandomCrop",
    "RandomResizedCrop",
    "Rotate",
    "Sharpen",
    "Solarize",
    "ToGray",
)
BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101, "replicate": cv2.BORDER_REPLICATE}


class Augmentation:
    """A list of transforms. What they do to a batch depends on its images and a seed alone."""

    def __init__(self, steps: Sequence[AugmentStep]) -> None:
        """Raises ConfigError for a name that is not allowed, or arguments that the transform does not take."""
        cv2.setNumThreads(0)
        self._compose = A.Compose([_build(step) for step in steps]) if steps else None
        if self._compose is not None:
            _check_shape(self._compose, steps)

    def __call__(self, images: Images, seed: int) -> Images:
        """Return the augmented images, uint8 [N, 32, 32, 3], each drawn for itself."""
        if self._compose is None:
            return images
        # Compose owns its generators, and in DataLoader workers they repeat each other unless seeded. Seeding takes
        # twice as long as padding and cropping an image: once for a batch, not for each image.
        self._compose.set_random_seed(seed)
        return np.stack([self._compose(image=image)["image"] for image in images])


def _check_shape(compose: A.Compose, steps: Sequence[AugmentStep]) -> None:
    shape = compose(image=np.zeros((32, 32, 3), np.uint8))["image"].shape
    if shape != (32, 32, 3):
        names = ", ".join(step.name for step in steps)
        raise ConfigError(f"augment: {names} turn 32x32 images into {shape[1]}x{shape[0]}; end with a RandomCrop")


def _build(step: AugmentStep) -> A.BasicTransform:
    if step.name not in ALLOWED:
        raise ConfigError(f"augment: {step.name!r} is not among {', '.join(ALLOWED)}")
    params = dict(step.params)
    if isinstance(params.get("border_mode"), str):
        border = params["border_mode"]
        if border not in BORDERS:
            raise ConfigError(f"augment: {step.name} has border_mode {border!r}, expected one of {', '.join(BORDERS)}")
        params["border_mode"] = BORDERS[border]
    make: Callable[..., A.BasicTransform] = getattr(A, step.name)
    try:
        with warnings.catch_warnings():
            # An unknown argument is only a warning to albumentations, and then a default takes its place.
            warnings.simplefilter("error", UserWarning)
            return make(**params)
    except (TypeError, ValueError, UserWarning) as error:
        raise ConfigError(f"augment: {step.name} does not take {step.params}: {' '.join(str(error).split())}") from None
