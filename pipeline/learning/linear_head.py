"""A logistic regression on the features of a frozen pretrained model, which becomes the model's classifier."""

import time
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.learning.device import Machine
from pipeline.learning.models import create_model
from pipeline.learning.predict import for_inference, predict_logits, tta_views
from pipeline.learning.train_state import EpochRecord, TrainState
from pipeline.member_config import MemberConfig
from pipeline.progress import ProgressCallback, no_progress
from pipeline.task import Task

Features = NDArray[np.float32]
VIEWS = tta_views("flip")  # the image and its mirror image, which the regression sees as two images
MAX_ITERATIONS = 2000


class FrozenFeatures:
    """Features of a store's images by a frozen model, computed at the first use and kept for the other folds."""

    def __init__(self) -> None:
        self._cached: tuple[tuple[Any, ...], Features] | None = None

    def get(
        self,
        member: MemberConfig,
        task: Task,
        images: NDArray[np.uint8],
        checksum: str,
        machine: Machine,
        on_progress: ProgressCallback = no_progress,
    ) -> Features:
        """Return float32 [views, N, features] of uint8 images [N, height, width, 3] with a checksum."""
        key = member.model.model_dump_json(), checksum, machine
        if self._cached is None or self._cached[0] != key:
            self._cached = key, extract_features(member, task, images, machine, on_progress)
        return self._cached[1]

    def release(self) -> None:
        """Free their memory."""
        self._cached = None


def extract_features(
    member: MemberConfig,
    task: Task,
    images: NDArray[np.uint8],
    machine: Machine,
    on_progress: ProgressCallback = no_progress,
) -> Features:
    """Return the inputs of a pretrained model's classifier, float32 [views, N, features].

    Raises ConfigError for a model whose classifier is not one linear layer.
    """
    model, spec = create_model(member.model, task)
    linear_classifier(model)
    model.reset_classifier(0)  # type: ignore[operator]
    model = for_inference(model.to(machine.device), machine)
    num_views = len(VIEWS)

    def progress_of(view: int) -> ProgressCallback:
        return lambda done, total: on_progress(view * total + done, num_views * total)

    return np.stack(
        [
            predict_logits(model, spec, images, (view,), machine, on_progress=progress_of(index))
            for index, view in enumerate(VIEWS)
        ]
    )


def train_linear_head(
    member: MemberConfig, task: Task, features: Features, labels: NDArray[np.int64], *, resume: TrainState
) -> Generator[TrainState, None, None]:
    """Fit the classifier on features [views, N, features] with labels [N]; yield the state, as after an epoch.

    Its weights are those of the whole model, so that it predicts like any other. Yields nothing if `resume` is that
    state already.
    """
    if resume.history:
        return
    start = time.perf_counter()
    model, _ = create_model(member.model, task)
    classifier = linear_classifier(model)
    inputs, targets = features.reshape(-1, features.shape[-1]), np.tile(labels, len(features))
    weight, bias = _fit(inputs, targets, member.linear.l2)
    with torch.no_grad():
        classifier.weight.copy_(weight)
        classifier.bias.copy_(bias)
        logits = classifier(torch.from_numpy(inputs))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(targets))
    seconds = time.perf_counter() - start
    record = EpochRecord(
        epoch=1,
        loss=float(loss),
        accuracy=float((logits.argmax(1).numpy() == targets).mean()),
        learning_rates={},
        seconds=seconds,
        images_per_second=len(labels) / seconds,
    )
    state = TrainState([record], {f"model.{name}": tensor for name, tensor in model.state_dict().items()})
    state.check_finite()
    yield state


def linear_classifier(model: Any) -> nn.Linear:
    """Return a model's classifier. Raises ConfigError if it is not one linear layer with a bias."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Linear) or classifier.bias is None or not hasattr(model, "reset_classifier"):
        raise ConfigError(
            f"head: linear needs a model with one linear layer as its classifier, which {type(model).__name__} lacks; "
            "choose another model"
        )
    return classifier


def _fit(inputs: Features, labels: NDArray[np.int64], l2: float) -> tuple[Tensor, Tensor]:
    """Return the weight [classes, features] and the bias [classes] that minimise mean loss + l2 / 2 x |weight|^2.

    The penalty is that of standardised features; weight and bias are those of the features themselves.
    """
    scaler = StandardScaler().fit(inputs)
    regression = LogisticRegression(C=1 / (l2 * len(inputs)), max_iter=MAX_ITERATIONS)
    regression.fit(scaler.transform(inputs), labels)
    weight, bias = regression.coef_.astype(np.float64), regression.intercept_.astype(np.float64)
    if len(weight) == 1:  # of two classes: the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return torch.from_numpy(weight), torch.from_numpy(bias)
