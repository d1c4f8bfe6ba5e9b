"""uint8 images [height, width, 3] -> pictures of a page."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.task import CLASS_NAMES
from pipeline.report.blocks import Image_
from pipeline.report.run_data import RunData

QUALITY = 92  # of WebP: half the size of PNG, and no difference to be seen


def as_data_uri(image: NDArray[np.uint8]) -> str:
    """Encode one RGB image of any size."""
    done, data = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"an image of shape {image.shape} can't be encoded as WebP")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def training_image(facts: RunData, row: int, caption: str) -> Image_:
    """Return a training image with a caption; its id, class and fold are told where one points at it."""
    table = facts.table
    title = f"id {table.ids[row]}, {CLASS_NAMES[table.classes[row]]}, fold {table.folds[row]}"
    return Image_(as_data_uri(facts.images[row]), caption, title)
