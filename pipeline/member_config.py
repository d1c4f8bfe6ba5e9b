"""The configuration of a member of the ensemble: its model, augmentation and training, with every key's meaning."""

from collections import Counter
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from pipeline.config_types import AugmentParams, BaseConfig, HomePath, ModelParams

MAX_BATCH_SIZE = 2**16
MAX_IMAGE_SIZE = 1024
MAX_SMALL_STEM_SIZE = 64


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
    params: ModelParams = Field(default_factory=dict)
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
    params: ModelParams = Field(default_factory=dict)
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
    """Lowest validation accuracy with which the training continues."""
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
