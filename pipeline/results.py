"""Typed results: Metrics is written to metrics.json, CascadeStats to cascade.json, StageTime to times.json."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]
FileFormat = Literal["onnx", "torchscript", "safetensors"]
"""Of an exported model."""


class Result(BaseModel):
    """Plain values that do not change; unknown keys of a newer version are ignored."""

    model_config = ConfigDict(frozen=True)


class Accuracy(Result):
    """Accuracy with its 95 % confidence interval."""

    num_images: int
    accuracy: float
    accuracy_ci95: Interval


class Scores(Accuracy):
    """Accuracy and log loss (nats)."""

    log_loss: float


class FoldCompute(Result):
    """What a member takes on one fold."""

    training_flops: float
    prediction_flops_per_image: float
    """FLOPs of one image with all TTA views."""


class Compute(Result):
    """What the trained folds and refits of a member took."""

    training_flops: float
    training_seconds: float
    """Of this machine: those of a fold that shared it with others are divided by their number."""
    prediction_flops_per_image: float
    """FLOPs of one image with all TTA views by one model."""


class MemberMetrics(Result):
    """A member's scores on its validation folds."""

    folds: dict[int, Scores]
    compute: Compute
    out_of_fold: Scores | None = None
    """None until all folds are trained."""
    refits: list[int] = []
    """Numbers, from 0, of the models that are trained on all training images."""


class EnsembleMetrics(Result):
    """Out-of-fold scores of the ensemble, and how it was fitted."""

    temperatures: dict[str, float]
    weights: dict[str, float]
    scores: Scores
    per_class: dict[str, Accuracy]
    """Recall of each class."""
    confusion_matrix: list[list[int]]
    """Rows are true, columns are predicted."""


class Metrics(Result):
    """The cross-validation of a run."""

    members: dict[str, MemberMetrics]
    untrained_folds: list[str] = []
    """Folds that are not trained yet, or whose files are corrupted."""
    untrained_refits: list[str] = []
    ensemble: EnsembleMetrics | None = None
    """None until all folds of all members are trained."""


def job_name(member: str, fold: int) -> str:
    """Return the name of a member's job on a fold (from 0), for messages and in an Arrangement."""
    return f"{member} fold {fold}"


def refit_name(member: str, number: int) -> str:
    """Return the name of the job of a member's refit (from 0)."""
    return f"{member} refit {number}"


class Arrangement(Result):
    """With how many threads each job computes; the bytes of its results depend on them."""

    training: dict[str, int] = {}
    """By the name of the job."""
    jobs_at_once: dict[str, int] = {}
    """How many jobs run at the same time as each, itself included, if it runs on this machine."""
    prediction: int = 0
    """0: not decided yet."""


class StageTime(Result):
    """What a stage of a command took; a resumed stage has several."""

    stage: str
    seconds: float


class ReliabilityDiagram(Result):
    """Confidence against accuracy per bin, bins without an image left out, and the expected calibration error."""

    confidence: list[float]
    accuracy: list[float]
    num_images: list[int]
    ece: float
    """Expected calibration error."""


class PairedTest(Result):
    """McNemar's exact test of two models on the same images."""

    num_images: int
    only_first: int
    """Images that only the first model classifies correctly."""
    only_second: int
    p_value: float


class Comparison(Result):
    """How two runs differ."""

    config: list[str]
    """Differences of the configs, as `key: old -> new`."""
    scores: tuple[Scores, Scores]
    test: PairedTest


class StageStats(Result):
    """One stage of the cascade."""

    forward_passes: int
    """Forward passes of each image in this stage."""
    num_images: int
    num_budget_exits: int = 0
    """Images that exit after this stage only because the compute budget is exhausted."""


class Agreement(Result):
    """Share of images for which two models predict the same class."""

    num_images: int
    models: list[str]
    rates: list[list[float]]


class CascadeStats(Result):
    """How many forward passes (models x TTA views) the test images got, and why."""

    stages: list[StageStats]
    full_forward_passes: int
    """Forward passes of the full ensemble: all models, all TTA views."""
    mean_forward_passes: float
    agreement: Agreement
    calibration_size: int = 0
    """Test images on which the exit thresholds were fitted."""
    exit_thresholds: list[float] = []
    expected_accuracy_drop: float | None = None
    """Against the full ensemble; None where every image got the full ensemble."""


class Classification(Result):
    """The most probable label of an image, and the second one."""

    file: str
    label: str
    probability: float
    second_label: str
    second_probability: float


class ExportedFile(Result):
    """A file with a run's models, and its check against the pipeline."""

    path: Path
    num_bytes: int
    num_models: int
    num_images: int
    """Of the check."""
    max_difference: float
    """Largest difference of a probability from the pipeline's, in float32."""
