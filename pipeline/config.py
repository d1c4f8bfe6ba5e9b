"""The configuration of a run: frozen models with the meaning and the default of every key."""

from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from pipeline.config_types import AutoOrNumber, BaseConfig, FolderName, HomePath
from pipeline.member_config import MAX_BATCH_SIZE, MemberConfig

Json = dict[str, Any]
TrackerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
RUN_FILES = (".json", ".yaml", ".csv", ".npz", ".html")


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
