"""What a run is: YAML and `--set` in, frozen models out, and back to YAML."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pipeline.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[1] / "configs"
DEFAULT_RECIPE = RECIPES / "quick.yaml"

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
    how: Literal["resize", "crop"] = "resize"
    """The whole picture made smaller, or a part of it, another one for each batch."""


WHOLE_PICTURE = ImageSizeConfig(until=1, size=32)


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

    def image_size(self, epoch: int) -> ImageSizeConfig:
        """Return the size of the pictures in an epoch (from 0)."""
        return next((part for part in self.image_sizes if epoch < part.until * self.epochs), WHOLE_PICTURE)

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
    max_passes: float = Field(6.0, gt=0)
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
    num_workers: int = Field(0, ge=0)
    """Processes that augment images beside the training; the pixels are the same for any number."""
    predict_batch: int = Field(0, ge=0)
    """Images that are predicted at a time; 0: 64 on a CPU, 2,048 elsewhere."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`torch.compile`, once for all folds; auto: on CUDA. On a CPU it needs a C++ compiler and gains nothing."""
    autocast: Literal["auto", "bf16", "off"] = "auto"
    """Mixed precision; auto: bf16 where the device multiplies in it (CUDA, and CPUs with AVX512-BF16 or AMX)."""


class Config(Strict):
    """A whole recipe with the machine it runs on."""

    seed: int = Field(0, ge=0, lt=2**32)
    images: ImagesConfig = ImagesConfig()
    folds: FoldsConfig = FoldsConfig()
    members: dict[FolderName, MemberConfig] = Field(default={"whitened_cnn": MemberConfig()}, min_length=1)
    predict: PredictConfig = PredictConfig()
    machine: MachineConfig = MachineConfig()

    def recipe(self) -> Json:
        """Return what makes the numbers of a run: everything but places and the machine's settings."""
        return self.model_dump(mode="json", exclude={"images", "machine"})

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice in a mapping is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: the key {key_node.value!r} stands twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """Parse safe YAML without duplicate keys. Raises ConfigError naming `where`."""
    try:
        return yaml.load(text, _UniqueKeyLoader)  # noqa: S506 (a subclass of SafeLoader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe and apply `key.sub=value` overrides. Raises ConfigError with one line per fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no recipe {path}{_neighbours(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read as a recipe: {error}") from None
    tree = parse_yaml(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds a {type(tree).__name__}, expected keys such as {', '.join(Config.model_fields)}"
        )
    return build_config(tree, str(path), overrides)


def override_config(config: Config, overrides: Iterable[str]) -> Config:
    """Return the config with `key.sub=value` overrides. Raises ConfigError."""
    return build_config(config.model_dump(mode="json"), "--set", overrides)


def build_config(tree: Json, where: str, overrides: Iterable[str] = ()) -> Config:
    """Validate a tree of plain values after the overrides. Raises ConfigError with one line per fault."""
    for override in overrides:
        _override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def differences(old: Json, new: Json) -> list[str]:
    """Name every leaf in which two trees differ, as `key.sub: old -> new`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "not set") != after.get(key, "not set")
    ]


def _leaves(tree: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and tree:
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, tree


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `key.sub=value` in the tree, the value read as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: expected key.sub=value, for example folds.num_folds=3")
    for part in parts[:-1]:
        below = tree.get(part)
        tree[part] = dict(below) if isinstance(below, dict) else {}
        tree = tree[part]
    tree[parts[-1]] = parse_yaml(text, f"--set {override!r}")


def _explain(loc: tuple[int | str, ...], kind: str, message: str, found: Any) -> str:
    key = ".".join(str(part) for part in loc if part != "[key]")
    if kind == "extra_forbidden":
        names = list(_model_at(loc[:-1]).model_fields)
        near = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
        return f"unknown key {key!r}; {hint}"
    message = message.removeprefix("Value error, ")
    if isinstance(found, dict | list):
        return f"{key}: {message}"
    return f"{key}: {message}, found {found!r}"


def _model_at(loc: tuple[int | str, ...]) -> type[Strict]:
    """Return the model whose keys stand at a place of the config tree."""
    model: type[Strict] = Config
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            # The model itself, or the one inside dict[str, M], tuple[M, ...] and M | None.
            inside = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, Strict)]
            model = inside[0] if inside else model
    return model


def _neighbours(path: Path) -> str:
    names = sorted(found.name for found in path.parent.glob("*.yaml"))
    return f"; {path.parent} has {', '.join(names)}" if names else ""
