"""The augmentation steps of a config -> an albumentations transform. The only file that imports albumentations.

albumentations 2.0.8 is the last release under the MIT licence. To add an augmentation, add its name to ALLOWED.
"""

import os
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AugmentStep
from pipeline.errors import ConfigError

# Otherwise every process that imports albumentations looks up its newest version on the network.
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
    """A sequence of transforms; an augmented batch is a pure function of its images and a seed."""

    def __init__(self, steps: Sequence[AugmentStep], image_shape: tuple[int, ...]) -> None:
        """`image_shape` is (height, width, channels).

        Raises ConfigError for a transform that is not allowed, arguments that it does not accept, and steps that change
        the image size.
        """
        cv2.setNumThreads(0)
        self._compose = A.Compose([_build(step) for step in steps]) if steps else None
        if self._compose is not None:
            _check_shape(self._compose, steps, image_shape)

    def __call__(self, images: Images, seed: int) -> Images:
        """Return the augmented images, uint8 [N, height, width, 3], with independent random parameters each."""
        if self._compose is None:
            return images
        # Compose has its own generators, which are the same in all DataLoader workers unless seeded. Seeding takes
        # twice as long as padding and cropping an image, hence once per batch.
        self._compose.set_random_seed(seed)
        return np.stack([self._compose(image=image)["image"] for image in images])


def _check_shape(compose: A.Compose, steps: Sequence[AugmentStep], image_shape: tuple[int, ...]) -> None:
    shape = compose(image=np.zeros(image_shape, np.uint8))["image"].shape
    if shape != image_shape:
        names = ", ".join(step.name for step in steps)
        raise ConfigError(
            f"augment: {names} change {_size(image_shape)} images to {_size(shape)}; "
            f"end with a RandomCrop to {_size(image_shape)}"
        )


def _size(shape: tuple[int, ...]) -> str:
    """Format as width x height."""
    return f"{shape[1]}x{shape[0]}"


def _build(step: AugmentStep) -> A.BasicTransform:
    if step.name not in ALLOWED:
        raise ConfigError(f"augment: unknown transform {step.name!r}, expected one of {', '.join(ALLOWED)}")
    params = dict(step.params)
    if isinstance(params.get("border_mode"), str):
        border = params["border_mode"]
        if border not in BORDERS:
            raise ConfigError(f"augment: {step.name} has border_mode {border!r}, expected one of {', '.join(BORDERS)}")
        params["border_mode"] = BORDERS[border]
    make: Callable[..., A.BasicTransform] = getattr(A, step.name)
    try:
        with warnings.catch_warnings():
            # albumentations only warns of an unknown argument and ignores it.
            warnings.simplefilter("error", UserWarning)
            return make(**params)
    except (TypeError, ValueError, UserWarning) as error:
        raise ConfigError(
            f"augment: {step.name} does not accept {step.params}: {' '.join(str(error).split())}"
        ) from None
