"""The configuration of a run: frozen models with the meaning and the default of every key."""

from collections import Counter
from typing import Any, Literal, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pipeline.config_types import AugmentParams, AutoOrNumber, FolderName, HomePath, ModelParams

Json = dict[str, Any]
TrackerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
MAX_BATCH_SIZE = 2**16
MAX_IMAGE_SIZE = 1024
MAX_SMALL_STEM_SIZE = 64
RUN_FILES = (".json", ".yaml", ".csv", ".npz", ".html")


class BaseConfig(BaseModel):
    """Immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read_yaml_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept YAML's on and off, which are booleans, where they are names; reject booleans where numbers are due."""
        if not isinstance(value, bool) or info.field_name is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        types = (annotation, *get_args(annotation))
        if "on" in types:
            return "on" if value else "off"
        if bool not in types and (int in types or float in types):
            raise ValueError("expected a number")
        return value


class ImagesConfig(BaseConfig):
    """Cache of decoded images."""

    cache_dir: HomePath | None = None
    """Folder of the cache; null: `.cache` in the input folder."""


class FoldsConfig(BaseConfig):
    """Split of the training images into folds."""

    num_folds: int = Field(5, ge=2, le=100)
    group_duplicates: bool = True
    """Keep near-duplicate images in one fold: across folds they would leak training images into validation."""
    train: tuple[int, ...] | None = Field(None, min_length=1)
    """The folds, from 0, that are trained, for example `[0]`; null: all. Scores are those of their images."""

    @property
    def trained(self) -> tuple[int, ...]:
        """The folds that are trained."""
        return tuple(range(self.num_folds)) if self.train is None else self.train

    @model_validator(mode="after")
    def _require_existing_folds(self) -> "FoldsConfig":
        if self.train is not None:
            if list(self.train) != sorted(set(self.train)):
                raise ValueError(f"folds.train is {list(self.train)}, expected different folds in ascending order")
            if not 0 <= self.train[0] <= self.train[-1] < self.num_folds:
                raise ValueError(
                    f"folds.train is {list(self.train)}, expected folds from 0 to {self.num_folds - 1}, as there are "
                    f"{self.num_folds}"
                )
        return self


class RefitConfig(BaseConfig):
    """Models that are trained on all training images; the score is measured on the folds."""

    models: int = Field(0, ge=0, le=100)
    """Models of each member, trained alike but for their seeds; 0: the fold models alone predict the test images."""
    with_folds: bool = False
    """true: the fold models predict the test images too; every model of a member then has the same weight."""


class ModelConfig(BaseConfig):
    """A model of timm, or one of our own that is registered with it."""

    name: str = "airbench94"
    """Passed to `timm.create_model`."""
    pretrained: bool = False
    """Start from timm's pretrained weights: downloaded from its hub, or read from the file in `weights`."""
    weights: HomePath | None = None
    """A local file of pretrained weights (.safetensors, or .pth of tensors alone), in place of the download."""
    image_size: int | None = Field(None, ge=8, le=MAX_IMAGE_SIZE)
    """Height and width of the model's input in pixels, to which the images are resized; null: as large as they are."""
    stem: Literal["auto", "keep", "small"] = "auto"
    """`keep`: as timm makes it; `small`: without the strides that are made for ImageNet; `auto`: small for a model that
    is trained from scratch on inputs of up to 64 pixels."""
    params: ModelParams = {}
    """Keyword arguments of the model, for example `{widths: [64, 256, 256]}` or `{drop_path_rate: 0.1}`."""

    @property
    def is_pretrained(self) -> bool:
        """Whether training starts from pretrained weights, of timm's hub or of a file."""
        return self.pretrained or self.weights is not None

    def has_small_stem(self, size: int) -> bool:
        """Whether the strides of the stem are removed for inputs of a size."""
        is_small = not self.is_pretrained and size <= MAX_SMALL_STEM_SIZE
        return self.stem == "small" or (self.stem == "auto" and is_small)


class AugmentStep(BaseConfig):
    """One albumentations transform of the training images."""

    name: str
    params: AugmentParams

    @model_validator(mode="after")
    def _require_probability(self) -> "AugmentStep":
        if "p" not in self.params:
            raise ValueError(f"{self.name} has no p; set its probability, for example p: 1.0")
        return self


class MuonConfig(BaseConfig):
    """Muon for dense convolutions and matrices, but the classifier's (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

    lr: float = Field(0.24, gt=0)
    momentum: float = Field(0.6, ge=0, lt=1)
    ns_steps: int = Field(3, ge=1, le=10)
    """Newton-Schulz iterations per step."""
    ns_coefficients: Literal["original", "quintic", "polar_express"] = "quintic"
    """Of the Newton-Schulz polynomial, by timm's names: `original` has the same in each iteration (airbench94_muon),
    the others have their own in each."""
    normalize_filters: bool = True
    """Before each step, rescale each convolution's weight to the norm sqrt(output channels) (airbench94_muon)."""


class OptimizerConfig(BaseConfig):
    """Any optimizer of timm; with `muon`, dense convolutions and matrices go to Muon instead."""

    name: str = "sgd"
    """A name of `timm.optim.list_optimizers()`, for example sgd, adamw or lamb."""
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of the optimizers that have one."""
    nesterov: bool = True
    """Nesterov momentum, of sgd."""
    params: ModelParams = {}
    """Further keyword arguments of the optimizer, for example `{betas: [0.9, 0.95], eps: 1.0e-6}`."""
    weight_decay: float = Field(5e-4, ge=0)
    """Per step a weight decays by `lr * weight_decay`, independent of `norm_bias_lr_scale` and `head_lr_scale`."""
    decay_norms_and_biases: bool = True
    """false: no weight decay of vectors, and of what the model excludes, such as position embeddings."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor of the learning rate from each layer to the one before it; the head has the full rate (BEiT)."""
    norm_bias_lr_scale: float = Field(1.0, ge=1e-30)
    """Learning-rate factor of the biases of normalisation layers and of the whitening layer."""
    head_lr_scale: float = Field(1.0, ge=1e-30)
    """Learning-rate factor of the classifier."""
    muon: MuonConfig | None = None

    @model_validator(mode="after")
    def _require_momentum_for_nesterov(self) -> "OptimizerConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set nesterov: false or a momentum")
        return self


class ScheduleConfig(BaseConfig):
    """Learning-rate schedule: linear warm-up, then decay; factors are relative to the peak learning rate."""

    kind: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the decay after the warm-up; `constant` has neither."""
    warmup_fraction: float = Field(0.2, ge=0, le=1)
    """Length of the warm-up as a fraction of the training."""
    start_factor: float = Field(0.2, ge=0, le=1)
    """Factor at the first step."""
    end_factor: float = Field(0.0, ge=0, le=1)
    """Factor after the last step."""


class ResizeStage(BaseConfig):
    """A part of the training on smaller images: fewer FLOPs per image."""

    until: float = Field(gt=0, le=1)
    """End of this stage as a fraction of the epochs."""
    size: int = Field(ge=8)
    """Height and width in pixels."""


class FreezeConfig(BaseConfig):
    """Parts of a pretrained model that keep their weights; the batch norms in them stay in evaluation mode."""

    num_stages: int = Field(0, ge=0)
    """Stages, from the input, that are not trained at all; the stem is the first. They need no backward pass."""
    head_only_epochs: int = Field(0, ge=0)
    """Epochs at the start in which only the classifier is trained."""
    batch_norms: bool = False
    """Every batch norm keeps the statistics of the pretrained weights; its scale and bias are trained."""


class Phase(NamedTuple):
    """What may differ between two epochs of a training."""

    image_size: int
    is_whitening_frozen: bool
    is_head_only: bool


class StopConfig(BaseConfig):
    """Ends a training that learns nothing, as with a typo in a learning rate."""

    accuracy: float = Field(gt=0, lt=1)
    """Lowest validation accuracy with which the training goes on."""
    after: float = Field(0.2, gt=0, le=1)
    """Fraction of the epochs from which on it is required."""


class TrainConfig(BaseConfig):
    """Training hyperparameters of one member."""

    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(256, ge=2, le=MAX_BATCH_SIZE)
    accumulate: int = Field(1, ge=1)
    """Parts of a batch, one after the other, whose gradients are added up: each takes a part of the memory."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of all gradients together; larger ones are scaled down."""
    freeze: FreezeConfig = FreezeConfig()
    progressive_resizing: tuple[ResizeStage, ...] = ()
    """Smaller images first, for example `[{until: 0.5, size: 24}]`; the full size for the rest of the epochs."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then evaluated and saved; 0: no average."""
    mixup_alpha: float = Field(0.0, ge=0)
    cutmix_alpha: float = Field(0.0, ge=0)
    whiten_bias_epochs: int | None = Field(None, ge=0)
    """Epochs after which the bias of a whitening layer is frozen (airbench); null: never."""
    validate_every: int = Field(1, ge=0)
    """Epochs from one evaluation on validation images to the next; the last epoch is always evaluated; 0: none is."""
    stop_if_hopeless: StopConfig | None = None

    def phase(self, epoch: int, full_size: int) -> Phase:
        """Return the phase of an epoch (from 0) of a model whose input has a size."""
        size = next((s.size for s in self.progressive_resizing if epoch < s.until * self.epochs), full_size)
        is_whitening_frozen = self.whiten_bias_epochs is not None and epoch >= self.whiten_bias_epochs
        return Phase(size, is_whitening_frozen, epoch < self.freeze.head_only_epochs)

    def phases(self, full_size: int) -> Counter[Phase]:
        """Return the phases of a training in their order, and how many epochs each takes."""
        return Counter(self.phase(epoch, full_size) for epoch in range(self.epochs))

    def is_validated(self, epoch: int) -> bool:
        """Whether an epoch (from 0) ends with an evaluation on validation images."""
        number = epoch + 1
        return self.validate_every > 0 and (number % self.validate_every == 0 or number == self.epochs)

    @property
    def mixes_images(self) -> bool:
        """Whether Mixup or CutMix is on."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def actual_batch_size(self, num_images: int) -> int:
        """Return the batch size for a number of training images: never more; even if the images are mixed in pairs."""
        batch_size = min(self.batch_size, num_images)
        return batch_size - batch_size % 2 if self.mixes_images else batch_size

    @model_validator(mode="after")
    def _require_parts_of_a_batch(self) -> "TrainConfig":
        if self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} leaves less than 2 images of batch_size {self.batch_size} in a part"
            )
        return self

    @model_validator(mode="after")
    def _require_validation_for_stopping(self) -> "TrainConfig":
        if self.stop_if_hopeless is not None and not self.validate_every:
            raise ValueError("stop_if_hopeless needs the validation accuracy: set validate_every to 1 or more")
        return self

    @model_validator(mode="after")
    def _require_rising_stages(self) -> "TrainConfig":
        ends = [stage.until for stage in self.progressive_resizing]
        if ends != sorted(set(ends)):
            raise ValueError(f"the stages of progressive_resizing end at {ends}, expected rising fractions")
        return self

    @model_validator(mode="after")
    def _require_even_batches_for_mixing(self) -> "TrainConfig":
        if self.mixes_images and self.batch_size % 2:
            raise ValueError(f"mixup and cutmix pair the images of a batch: batch_size {self.batch_size} must be even")
        return self


class LinearConfig(BaseConfig):
    """The logistic regression of `head: linear`."""

    l2: float = Field(1e-2, gt=0)
    """Regularisation: this times half the squared norm of the weights is added to the mean loss; the features are
    standardised."""


class MemberConfig(BaseConfig):
    """A member of the ensemble: one model, trained once per fold."""

    model: ModelConfig = ModelConfig()
    head: Literal["trained", "linear"] = "trained"
    """`linear`: a logistic regression on the features of the frozen pretrained model, in place of a training."""
    linear: LinearConfig = LinearConfig()
    alternating_flip: bool = False
    """Flip each image horizontally in every other epoch, starting at random (airbench)."""
    augment: tuple[AugmentStep, ...] = ()
    train: TrainConfig = TrainConfig()

    @property
    def num_epochs(self) -> int:
        """Passes over the training images."""
        return 1 if self.head == "linear" else self.train.epochs

    @model_validator(mode="after")
    def _require_no_training_of_a_linear_head(self) -> "MemberConfig":
        if self.head == "linear":
            if not self.model.is_pretrained:
                raise ValueError("head: linear needs a pretrained model; set model.pretrained or model.weights")
            if (self.train, self.augment, self.alternating_flip) != (TrainConfig(), (), False):
                raise ValueError("head: linear trains nothing else; remove train, augment and alternating_flip")
        return self


class CascadeConfig(BaseConfig):
    """Adaptive inference: test images exit early, with fewer forward passes, once their prediction is settled."""

    max_accuracy_drop: float = Field(0.0005, ge=0, le=1)
    """Expected loss of accuracy against the full ensemble, on images distributed like the validation images."""
    max_forward_passes: float = Field(8.0, gt=0, le=1e6)
    """Compute budget: mean forward passes (models x TTA views) per image; the test set may be out of distribution."""
    calibration_size: int = Field(5000, ge=10)
    """Test images that get the full ensemble, to fit the exit thresholds; at most a fifth of them."""


class PredictConfig(BaseConfig):
    """Inference, the same for validation and test."""

    tta: Literal["none", "flip", "flip_translate"] = "flip"
    """Test-time augmentation: `flip` averages 2 views, `flip_translate` 6 (flipped, and translated by one pixel)."""
    cascade: CascadeConfig | None = CascadeConfig()
    """null: every test image gets the full ensemble."""


class MachineConfig(BaseConfig):
    """Hardware settings; not part of the experiment."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    jobs: AutoOrNumber = "auto"
    """Processes that train folds, or predict test images, side by side; auto: one for each GPU, on a CPU as many
    as use the cores best, at most one for each, as far as memory allows."""
    threads_per_job: AutoOrNumber = "auto"
    """Threads of each job, on which the bytes of its results depend; auto: the cores, divided among the jobs that run
    side by side. A run keeps what it started with. At most four times the number of cores."""
    gpu_share: float = Field(1.0, gt=0, le=1)
    """On a cluster with GPUs: fraction of a GPU per job; 0.5 runs two jobs on each."""
    shared_dir: HomePath | None = None
    """On a cluster: a folder that all nodes see under this path; results travel as files in it, not in messages."""
    num_workers: int = Field(0, ge=0)
    """Data-loading processes, at most one per core; the augmented images are the same for any number."""
    predict_batch_size: int = Field(0, ge=0, le=MAX_BATCH_SIZE)
    """0: 64 on a CPU, 2,048 elsewhere."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`torch.compile`, once for all folds; auto: on CUDA. On a CPU it needs a C++ compiler and gains nothing."""
    autocast: Literal["auto", "bf16", "off"] = "auto"
    """Mixed precision; auto: bf16 where the hardware multiplies in it (CUDA, and CPUs with AVX512-BF16 or AMX)."""

    @model_validator(mode="before")
    @classmethod
    def _rename_num_threads(cls, values: Any) -> Any:
        """Accept the key of earlier versions, which the folders of their runs contain."""
        if isinstance(values, dict) and "num_threads" in values:
            return {key: value for key, value in values.items() if key != "num_threads"} | {
                "threads_per_job": values["num_threads"] or "auto"
            }
        return values


class LogConfig(BaseConfig):
    """Logging; not part of the experiment."""

    trackers: tuple[TrackerName, ...] = ("csv",)
    """Where each epoch and the out-of-fold scores are recorded. csv: history.csv of every model, which is always
    written. tensorboard: event files in each fold's folder. wandb: Weights & Biases, offline in the run's folder
    without an API key. mlflow: the server MLFLOW_TRACKING_URI, else submissions/mlflow.db. Each but csv needs its
    package: `pip install tensorboard`, `wandb`, or `mlflow-skinny sqlalchemy alembic`."""

    @model_validator(mode="before")
    @classmethod
    def _rename_tensorboard(cls, values: Any) -> Any:
        """Accept the key of earlier versions, which the folders of their runs contain."""
        if isinstance(values, dict) and isinstance(values.get("tensorboard"), bool) and "trackers" not in values:
            rest = {key: value for key, value in values.items() if key != "tensorboard"}
            return rest | {"trackers": ["csv", "tensorboard"] if values["tensorboard"] else ["csv"]}
        return values


class Config(BaseConfig):
    """An experiment, and the machine that it runs on."""

    seed: int = Field(0, ge=0, lt=2**32)
    images: ImagesConfig = ImagesConfig()
    folds: FoldsConfig = FoldsConfig()
    refit: RefitConfig = RefitConfig()
    members: dict[FolderName, MemberConfig] = Field(default={"airbench94": MemberConfig()}, min_length=1)
    predict: PredictConfig = PredictConfig()
    machine: MachineConfig = MachineConfig()
    log: LogConfig = LogConfig()

    @field_validator("members")
    @classmethod
    def _require_distinct_folders(cls, members: dict[str, MemberConfig]) -> dict[str, MemberConfig]:
        """Each member has a folder in the run, beside the run's files; Windows and macOS ignore capitals."""
        lower = [name.lower() for name in members]
        for name in members:
            if name.lower().endswith(RUN_FILES):
                raise ValueError(f"{name!r} looks like a file of the run; choose a name without the ending")
            if lower.count(name.lower()) > 1:
                raise ValueError(f"{name!r} has the name of another member but for capitals; choose another name")
        return members

    @model_validator(mode="after")
    def _require_different_refits(self) -> "Config":
        if self.refit.models > 1:
            for name, member in self.members.items():
                if member.head == "linear":
                    raise ValueError(
                        f"refit.models is {self.refit.models}, but all refits of {name} would be the same, as it has "
                        "head: linear; set refit.models: 1"
                    )
        return self

    def experiment(self) -> Json:
        """Return what determines the results: everything but paths, logging, validation and hardware settings."""
        # A file of weights is known by its checksum, which is part of the run's input.
        members: Any = {"__all__": {"model": {"weights"}, "train": {"validate_every", "stop_if_hopeless"}}}
        return self.model_dump(mode="json", exclude={"images": True, "machine": True, "log": True, "members": members})

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
