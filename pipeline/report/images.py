"""uint8 images [height, width, 3] -> images of a page."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.report.blocks import CaptionedImage
from pipeline.report.run_data import RunData
from pipeline.runs.fold_table import FoldTable

QUALITY = 92  # of WebP: half the size of PNG without a visible difference
HEAT, MAX_DENSITY = (214, 69, 45), 0.75  # colour of a heat map as in page.css, and its densest part
MIN_VALUE = 1e-6  # smaller ones are rounding errors


def as_data_uri(image: NDArray[np.uint8]) -> str:
    """Encode an RGB image of any size as WebP. Raises ValueError for another shape."""
    encoded, data = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not encoded:
        raise ValueError(f"an image of shape {image.shape} can't be encoded as WebP")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def with_heat_map(image: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an RGB image in grey with a red layer, the denser the larger the positive value [height, width]."""
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    density = MAX_DENSITY * np.clip(values / max(float(values.max()), MIN_VALUE), 0, 1)[..., None]
    mixed: NDArray[np.uint8] = (grey * (1 - density) + np.array(HEAT) * density).round().astype(np.uint8)
    return mixed


def training_image(data: RunData, row: int, caption: str) -> CaptionedImage:
    """Return an image that is predicted out of fold with a caption; the tooltip has its id, label and fold."""
    return captioned_image(data.images, data.table, data.task.class_names, row, caption)


def captioned_image(
    images: NDArray[np.uint8], table: FoldTable, class_names: Sequence[str], row: int, caption: str
) -> CaptionedImage:
    """Return an image of a table with a caption; the tooltip has its id, label and fold."""
    title = f"id {table.ids[row]}, {class_names[table.labels[row]]}, fold {table.folds[row]}"
    return CaptionedImage(as_data_uri(images[row]), caption, title)
