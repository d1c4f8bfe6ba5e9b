"""What is known of the competition: its name, classes, counts, files and columns (kaggle.com/c/cifar-10)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
Image = NDArray[np.uint8]
Ids = NDArray[np.int64]

COMPETITION = "cifar-10"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_TEST = 300_000
IMAGE_SHAPE = (32, 32, 3)

ZIP_NAME = "cifar-10.zip"
TRAIN_LABELS_CSV = "trainLabels.csv"
SAMPLE_SUBMISSION_CSV = "sampleSubmission.csv"
CSV_COLUMNS = ("id", "label")
