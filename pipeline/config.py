"""What a run is: frozen models, with the meaning and the default of every key."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Json = dict[str, Any]
FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


class Strict(BaseModel):
    """Unknown keys are errors, and nothing changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImagesConfig(Strict):
    """Where the decoded images are kept."""

    cache_dir: Path | None = None
    """A folder for the decoded images; not set: `.cache` in the input folder."""


class FoldsConfig(Strict):
    """How the training images are split."""

    num_folds: int = Field(5, ge=2, le=100)
    group_duplicates: bool = True
    """Keep near-duplicate images in one fold, so that no fold is judged on images it was trained on."""


class ModelConfig(Strict):
    """Which network; everything comes through `timm.create_model`."""

    name: str = "whitened_cnn"
    pretrained: bool = False
    params: dict[str, Any] = {}
    """Keyword arguments for `timm.create_model`, for example `{widths: [64, 256, 256]}`."""


class AugmentStep(Strict):
    """One albumentations transform of the training images."""

    name: str
    params: dict[str, Any]

    @model_validator(mode="after")
    def _probability_is_written(self) -> "AugmentStep":
        if "p" not in self.params:
            raise ValueError(f"{self.name} has no p; write its probability, for example p: 1.0")
        return self


class MuonConfig(Strict):
    """Muon for the convolution filters (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

    lr: float = Field(0.24, gt=0)
    momentum: float = Field(0.6, ge=0, lt=1)
    num_iterations: int = Field(3, ge=1, le=10)
    """Newton-Schulz iterations in each step."""
    normalize_filters: bool = True
    """Before each step, rescale every filter bank to the norm sqrt(output channels), as airbench94_muon does."""


class OptimizerConfig(Strict):
    """SGD with Nesterov momentum; with `muon`, the convolution filters go to Muon instead."""

    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    """Each step takes `lr * weight_decay` of a weight away, whatever the scales below."""
    norm_bias_lr_scale: float = Field(1.0, gt=0)
    """Biases of normalisation layers and of a whitening layer learn at `lr` times this."""
    head_lr_scale: float = Field(1.0, gt=0)
    muon: MuonConfig | None = None

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "OptimizerConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set nesterov: false or a momentum")
        return self


class ScheduleConfig(Strict):
    """The learning rate over a training, as a fraction of its peak."""

    kind: Literal["triangle", "cosine", "constant"] = "triangle"
    start: float = Field(0.2, ge=0, le=1)
    """The fraction at the first step (triangle and cosine)."""
    peak: float = Field(0.2, ge=0, le=1)
    """At which part of the training the peak is reached."""
    end: float = Field(0.0, ge=0, le=1)
    """The fraction after the last step."""


class ImageSizeConfig(Strict):
    """A part of the training that sees smaller pictures: less work for each, and little lost early on."""

    until: float = Field(gt=0, le=1)
    """The part ends after this share of the epochs."""
    size: int = Field(ge=8, le=32)
    """Height and width in pixels."""


class TrainConfig(Strict):
    """How one member learns on one fold."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(256, ge=2)
    image_sizes: tuple[ImageSizeConfig, ...] = ()
    """Smaller pictures first, for example `[{until: 0.5, size: 24}]`; 32 pixels in what is left."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Judge and keep a moving average of the weights with this decay; 0: the weights themselves."""
    mixup_alpha: float = Field(0.0, ge=0)
    cutmix_alpha: float = Field(0.0, ge=0)
    whiten_bias_epochs: int | None = Field(None, ge=0)
    """Freeze the bias of a whitening layer after so many epochs; not set: never."""

    def image_size(self, epoch: int) -> int:
        """Return the height and width of the pictures in an epoch (from 0)."""
        return next((part.size for part in self.image_sizes if epoch < part.until * self.epochs), 32)

    @model_validator(mode="after")
    def _sizes_follow_each_other(self) -> "TrainConfig":
        ends = [part.until for part in self.image_sizes]
        if ends != sorted(set(ends)):
            raise ValueError(f"image_sizes end at {ends}, expected rising shares of the epochs")
        return self

    @model_validator(mode="after")
    def _mixing_needs_even_batches(self) -> "TrainConfig":
        if (self.mixup_alpha or self.cutmix_alpha) and self.batch_size % 2:
            raise ValueError(f"mixup and cutmix pair the images of a batch: batch_size {self.batch_size} must be even")
        return self


class MemberConfig(Strict):
    """One kind of network in the ensemble, trained once on each fold."""

    model: ModelConfig = ModelConfig()
    alternate_mirror: bool = False
    """Mirror each image in every other epoch, the first by chance: both faces are seen equally often (airbench)."""
    augment: tuple[AugmentStep, ...] = ()
    train: TrainConfig = TrainConfig()


class SelectiveConfig(Strict):
    """Fewer passes (fold x view) for test images whose answer is clear after the first of them."""

    max_loss: float = Field(0.0005, ge=0, le=1)
    """The accuracy that may be lost by it, as expected for images like the held-out ones."""
    max_passes: float = Field(8.0, gt=0)
    """At most so many passes on average, whatever is lost: the test images may be stranger than the training images."""
    sample: int = Field(2000, ge=10)
    """Test images that get everything, to find out which others need it."""


class PredictConfig(Strict):
    """How probabilities are made, the same for validation and test."""

    views: Literal["identity", "mirror", "mirror_shift"] = "mirror"
    """`mirror` averages 2 views of an image, `mirror_shift` 6 (mirrored, and shifted by one pixel)."""
    selective: SelectiveConfig | None = SelectiveConfig()
    """null: every test image gets every fold and view."""


class MachineConfig(Strict):
    """What the machine does; none of it is part of the recipe."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    num_threads: int = Field(0, ge=0)
    """0: as many as the process has cores."""
    gpu_share: float = Field(1.0, gt=0, le=1)
    """On a cluster with GPUs: the part of one that a job takes; 0.5 puts two jobs on each."""
    shared_dir: Path | None = None
    """On a cluster: a folder that all nodes see under this path; results travel as files in it, not in messages."""
    num_workers: int = Field(0, ge=0)
    """Processes that augment images beside the training, at most one a core; the pixels are the same for any number."""
    predict_batch: int = Field(0, ge=0)
    """Images that are predicted at a time; 0: 64 on a CPU, 2,048 elsewhere."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`torch.compile`, once for all folds; auto: on CUDA. On a CPU it needs a C++ compiler and gains nothing."""
    autocast: Literal["auto", "bf16", "off"] = "auto"
    """Mixed precision; auto: bf16 where the device multiplies in it (CUDA, and CPUs with AVX512-BF16 or AMX)."""


class LogConfig(Strict):
    """What else is written down while it runs; none of it is part of the recipe."""

    tensorboard: bool = False
    """The histories also as TensorBoard's event files, in each fold's folder; needs `pip install tensorboard`."""


class Config(Strict):
    """A whole recipe with the machine it runs on."""

    seed: int = Field(0, ge=0, lt=2**32)
    images: ImagesConfig = ImagesConfig()
    folds: FoldsConfig = FoldsConfig()
    members: dict[FolderName, MemberConfig] = Field(default={"whitened_cnn": MemberConfig()}, min_length=1)
    predict: PredictConfig = PredictConfig()
    machine: MachineConfig = MachineConfig()
    log: LogConfig = LogConfig()

    def recipe(self) -> Json:
        """Return what makes the numbers of a run: everything but places, logs and the machine's settings."""
        return self.model_dump(mode="json", exclude={"images", "machine", "log"})

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
