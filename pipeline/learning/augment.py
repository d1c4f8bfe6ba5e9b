"""The augmentation steps of a config -> an albumentations transform. The only file that imports albumentations.

albumentations 2.0.8 is the last release under the MIT licence. To add an augmentation, add its name to ALLOWED.
"""

import os
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, TrainingError
from pipeline.member_config import AugmentStep

# Otherwise every process that imports albumentations looks up its newest version on the network.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2

Images = NDArray[np.uint8]
Shape = tuple[int, ...]

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
NUM_DRAWS, MANY_DRAWS = 20, 200  # images to find the output shapes of a step; the second if its shape is random
MAX_SHAPES = 30  # that are explored of a step
MAX_SIZE = 1024  # pixels


class Augmentation:
    """A sequence of transforms; an augmented batch is a pure function of its images and a seed."""

    def __init__(self, steps: Sequence[AugmentStep], image_shape: Shape) -> None:
        """`image_shape` is (height, width, channels).

        Raises ConfigError for a transform that is not allowed, arguments that it does not accept, and steps that fail
        on the images, or may change their size or type.
        """
        cv2.setNumThreads(0)
        self._compose = A.Compose([_build(index, step) for index, step in enumerate(steps)]) if steps else None
        _check_shapes(steps, image_shape)

    def __call__(self, images: Images, seed: int) -> Images:
        """Return the augmented images, uint8 [N, height, width, 3], with independent random parameters each.

        Raises TrainingError if a transform fails.
        """
        if self._compose is None:
            return images
        # Compose has its own generators, which are the same in all DataLoader workers unless seeded. Seeding takes
        # twice as long as padding and cropping an image, hence once per batch.
        self._compose.set_random_seed(seed)
        try:
            return np.stack([self._compose(image=image)["image"] for image in images])
        except Exception as error:
            # Of any class, as in `_output_shape`, which can't try every random number.
            raise TrainingError(f"the augmentation of the training images failed: {_one_line(error)}") from None


def _check_shapes(steps: Sequence[AugmentStep], image_shape: Shape) -> None:
    """Apply every step, whatever its probability, to images of every shape that can reach it."""
    shapes = {image_shape}
    for index, step in enumerate(steps):
        probability = step.params["p"]
        changed = _output_shapes(index, step, shapes) if probability > 0 else set()
        shapes = changed if probability == 1 else shapes | changed
        # The extremes are what a later crop may fail on.
        if len(shapes) > MAX_SHAPES:
            shapes = {*sorted(shapes)[: MAX_SHAPES // 2], *sorted(shapes)[-MAX_SHAPES // 2 :]}
    others = sorted(shapes - {image_shape})
    if others:
        names = ", ".join(step.name for step in steps)
        sometimes = " with some probability" if image_shape in shapes else ""
        raise ConfigError(
            f"augment: {names} change {_size(image_shape)} images to {_size(others[0])}{sometimes}; "
            f"{_suggest(others, image_shape)}"
        )


def _suggest(shapes: Sequence[Shape], image_shape: Shape) -> str:
    if any(shape[2:] != image_shape[2:] for shape in shapes):
        return "every step must keep 3 channels (for ToGray, num_output_channels: 3)"
    is_smaller = any(min(shape[:2]) < image_shape[0] for shape in shapes)
    return f"end with a RandomCrop to {_size(image_shape)} with p: 1{' and pad_if_needed: true' if is_smaller else ''}"


def _output_shapes(index: int, step: AugmentStep, shapes: set[Shape]) -> set[Shape]:
    """Return the shapes to which a step may change images of some shapes. Raises ConfigError if it fails."""
    transform = A.Compose([_build(index, step.model_copy(update={"params": {**step.params, "p": 1.0}}))])
    rng, outputs = np.random.default_rng(0), set[Shape]()
    for shape in sorted(shapes):
        found = set[Shape]()
        image = rng.integers(0, 256, shape, np.uint8)
        for seed in range(MANY_DRAWS):
            if seed >= NUM_DRAWS and len(found) == 1:
                break
            transform.set_random_seed(seed)
            found.add(_output_shape(index, step, transform, image))
        outputs |= found
    return outputs


def _output_shape(index: int, step: AugmentStep, transform: A.Compose, image: NDArray[np.uint8]) -> Shape:
    location = f"augment.{index} ({step.name})"
    try:
        augmented: NDArray[np.uint8] = transform(image=image)["image"]
    except Exception as error:
        # OpenCV, albumentations and numpy raise errors of many classes for arguments that do not fit the image.
        raise ConfigError(
            f"{location} fails on {_size(image.shape)} images with {step.params}: {_one_line(error)}"
        ) from None
    if augmented.dtype != np.uint8:
        raise ConfigError(f"{location} changes uint8 images to {augmented.dtype} with {step.params}")
    if max(augmented.shape) > MAX_SIZE:
        raise ConfigError(
            f"{location} changes {_size(image.shape)} images to {_size(augmented.shape)}, expected at most {MAX_SIZE}"
        )
    return augmented.shape


def _size(shape: Shape) -> str:
    """Format as width x height, and the number of channels if it is not 3."""
    channels = shape[2] if len(shape) == 3 else 1
    return f"{shape[1]}x{shape[0]}{'' if channels == 3 else f'x{channels}'}"


def _build(index: int, step: AugmentStep) -> A.BasicTransform:
    location = f"augment.{index}"
    if step.name not in ALLOWED:
        raise ConfigError(f"{location}: unknown transform {step.name!r}, expected one of {', '.join(ALLOWED)}")
    params = dict(step.params)
    probability = params["p"]
    if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0 <= probability <= 1:
        raise ConfigError(f"{location}: {step.name} does not accept p: {probability!r}, expected a number from 0 to 1")
    if isinstance(params.get("border_mode"), str):
        border = params["border_mode"]
        if border not in BORDERS:
            raise ConfigError(
                f"{location}: {step.name} has border_mode {border!r}, expected one of {', '.join(BORDERS)}"
            )
        params["border_mode"] = BORDERS[border]
    make: Callable[..., A.BasicTransform] = getattr(A, step.name)
    try:
        with warnings.catch_warnings():
            # albumentations only warns of an unknown argument and ignores it.
            warnings.simplefilter("error", UserWarning)
            return make(**params)
    except Exception as error:
        # Mostly TypeError, ValueError and UserWarning; some transforms calculate with their arguments.
        raise ConfigError(f"{location}: {step.name} does not accept {step.params}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    """Return the class of an error and its text, without what OpenCV and pydantic add to it."""
    text = re.sub(r"OpenCV\(\S+\) \S+: error: | \[type=.*", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}"
