"""The competition: the only module that knows CIFAR-10. Another image competition is another `Task`."""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
Image = NDArray[np.uint8]
Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a Kaggle image classification competition fixes: classes, images, file names and CSV columns."""

    competition: str
    """The name in the competition's address, kaggle.com/c/NAME."""
    class_names: tuple[str, ...]
    """As in the labels' CSV; a label is an index into them."""
    image_shape: tuple[int, int, int]
    """Height, width and channels of every image; height and width are equal."""
    mean: tuple[float, float, float]
    """Mean of the training pixels per channel, on the scale 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of the training pixels per channel, on the scale 0 to 1."""
    num_test: int
    """Rows that Kaggle expects in a submission."""
    num_scored_test: int
    """Test images that Kaggle scores; the others are distractors."""
    zip_name: str
    train_labels_csv: str
    sample_submission_csv: str
    train_archive: str = "train.7z"
    test_archive: str = "test.7z"
    id_column: str = "id"
    label_column: str = "label"
    id_pattern: str = "[1-9][0-9]{0,8}"
    """A regular expression for the ids, which are whole numbers."""
    torchvision_folder: str | None = None
    """The folder with torchvision's copy of the dataset, where there is one."""
    torchvision_tar: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for images that are not square RGB."""
        height, width, channels = self.image_shape
        if height != width or channels != 3:
            raise ValueError(f"image_shape is {self.image_shape}, expected square RGB images [size, size, 3]")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return self.image_shape[0]

    @property
    def csv_columns(self) -> tuple[str, str]:
        """Columns of the labels' CSV and of a submission."""
        return self.id_column, self.label_column

    @property
    def csv_header(self) -> str:
        """First line of the labels' CSV and of a submission."""
        return ",".join(self.csv_columns)

    @property
    def url(self) -> str:
        """Address of the competition, without the scheme."""
        return f"kaggle.com/c/{self.competition}"

    def archive_name(self, split: Split) -> str:
        """Return the file name of a split's archive."""
        return self.train_archive if split == "train" else self.test_archive


@dataclass(frozen=True)
class Labels:
    """Ids [N], ascending, each with its label [N], an index into `Task.class_names`."""

    ids: Ids
    labels: NDArray[np.int64]

    def checksum(self) -> str:
        """Return the CRC-32 of ids and labels."""
        return f"{zlib.crc32(self.ids.tobytes() + self.labels.tobytes()):08x}"


CIFAR10 = Task(
    competition="cifar-10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    image_shape=(32, 32, 3),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    num_test=300_000,
    num_scored_test=10_000,
    zip_name="cifar-10.zip",
    train_labels_csv="trainLabels.csv",
    sample_submission_csv="sampleSubmission.csv",
    torchvision_folder="cifar-10-batches-py",
    torchvision_tar="cifar-10-python.tar.gz",
)
