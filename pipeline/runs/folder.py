"""submissions/<run>/: named paths, atomic writes, one writer at a time, what is done and what is not."""

import csv
import fcntl
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.config import Config
from pipeline.errors import ConfigError, RunError
from pipeline.files import write_bytes, write_json, write_text
from pipeline.predictions import Predictions, blend, join
from pipeline.recipes import build_config, differences, parse_yaml

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class FoldTable:
    """The training ids [N], ascending; each with its class, the fold that holds it out, and its group of duplicates."""

    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    folds: NDArray[np.int64]
    groups: NDArray[np.int64]

    def classes_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the classes of some of the ids, in their order."""
        return self.classes[np.searchsorted(self.ids, ids)]


class FoldFolder:
    """One member on one fold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoint = path / "checkpoint.safetensors"
        self._weights = path / "weights.safetensors"
        self._out_of_fold = path / "out_of_fold.npz"
        self._test = path / "test"
        self.events = path / "tensorboard"

    @property
    def is_trained(self) -> bool:
        """Whether the fold is trained and judged; the out-of-fold predictions are written last."""
        return self._out_of_fold.exists()

    def save_checkpoint(self, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Keep a training in progress."""
        data = safetensors.torch.save(dict(tensors), metadata={"history": json.dumps(list(history))})
        write_bytes(self._checkpoint, data)

    def load_checkpoint(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]] | None:
        """Return the history and tensors of a training in progress, if there is one."""
        if not self._checkpoint.exists():
            return None
        with _reading(self._checkpoint), safe_open(self._checkpoint, "pt") as file:
            history = json.loads(file.metadata()["history"])
            return history, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    def finish(
        self, history: Sequence[Mapping[str, Any]], weights: Mapping[str, Tensor], out_of_fold: Predictions
    ) -> None:
        """Keep a finished fold; only then drop its checkpoint."""
        write_text(self.path / "history.csv", _as_csv(history))
        data = safetensors.torch.save(dict(weights))
        write_bytes(self._weights, data)
        _save_predictions(self._out_of_fold, out_of_fold)
        self._checkpoint.unlink(missing_ok=True)

    def history(self) -> list[dict[str, float]]:
        """Return the epochs of a finished fold."""
        with (self.path / "history.csv").open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of a finished fold."""
        with _reading(self._weights):
            return safetensors.torch.load_file(self._weights)

    def out_of_fold(self) -> Predictions:
        """Return the predictions for the images that the fold held out."""
        return _load_predictions(self._out_of_fold)

    def has_test(self, name: str, number: int, ids: NDArray[np.int64]) -> bool:
        """Whether a slice of the test images is predicted, and is of these ids."""
        path = self._test_slice(name, number)
        return path.exists() and np.array_equal(_load_predictions(path).ids, ids)

    def save_test(self, name: str, number: int, predictions: Predictions) -> None:
        """Keep the predictions for a slice of the test images; the name says in which round they were made."""
        _save_predictions(self._test_slice(name, number), predictions)

    def test(self, name: str) -> Predictions:
        """Return the predictions for all test images of a round."""
        return join([_load_predictions(path) for path in sorted(self._test.glob(f"{name}.*.npz"))])

    def _test_slice(self, name: str, number: int) -> Path:
        return self._test / f"{name}.{number:03}.npz"


class RunFolder:
    """All that is kept of one run."""

    def __init__(self, submissions: Path, name: str) -> None:
        if not RUN_NAME.fullmatch(name):
            raise RunError(f"--run {name!r}: a run's name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with none of _.-")
        self.name = name
        self.path = submissions / name
        self.submission = self.path / "submission.csv"
        self.report = self.path / "report.html"
        self._config = self.path / "config.yaml"
        self._folds = self.path / "folds.csv"
        self._test = self.path / "test.npz"

    @property
    def exists(self) -> bool:
        """Whether the run was ever started."""
        return self._config.exists()

    def fold(self, member: str, fold: int) -> FoldFolder:
        """Return the folder of a member on a fold (from 0)."""
        return FoldFolder(self.path / member / f"fold_{fold}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run as its only writer. Raises RunError with the owner's process id.

        The lock is the system's: it ends with the process, however that ends.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror}; choose another place or name") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise RunError(
                    f"the run {self.name} is being written by process {lock.read() or 'unknown'}; "
                    "wait for it, or choose another name with --run"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def config(self) -> Config:
        """Return the recipe with which the run was started. Raises RunError if it never was."""
        try:
            text = self._config.read_text(encoding="utf-8")
        except OSError:
            raise RunError(f"there is no run {self.name} in {self.path.parent}{_others(self.path.parent)}") from None
        return build_config(parse_yaml(text, str(self._config)), str(self._config))

    def check_recipe(self, config: Config) -> None:
        """Raise ConfigError with the differences if the run was started with another recipe."""
        changed = differences(self.config().recipe(), config.recipe()) if self.exists else []
        if changed:
            raise ConfigError(
                f"the run {self.name} was started with another recipe; choose another --run, or take back:\n  "
                + "\n  ".join(changed)
            )

    def check_input(self, inputs: Mapping[str, Any]) -> None:
        """Raise RunError with the differences if the run was started on other input; known by its checksums."""
        changed = differences(self.load_json("input.json"), dict(inputs))
        if changed:
            raise RunError(
                f"the run {self.name} was started on other input; choose another --run, or give the same input:\n  "
                + "\n  ".join(changed)
            )

    def begin(self, config: Config, inputs: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Start the run, or go on with it. Raises ConfigError if it was started with another recipe or input."""
        self.check_recipe(config)
        if self.exists:
            self.check_input(inputs)
            return
        write_json(self.path / "input.json", inputs)
        write_json(self.path / "environment.json", environment)
        write_text(self._config, config.to_yaml())

    @property
    def has_folds(self) -> bool:
        """Whether the folds are made."""
        return self._folds.exists()

    def save_folds(self, table: FoldTable) -> None:
        """Keep the folds, which are made once."""
        rows = zip(table.ids.tolist(), table.classes.tolist(), table.folds.tolist(), table.groups.tolist(), strict=True)
        write_text(self._folds, "id,class,fold,group\n" + "".join(f"{i},{c},{f},{g}\n" for i, c, f, g in rows))

    def folds(self) -> FoldTable:
        """Return the folds. Raises RunError when they are missing or damaged."""
        try:
            table = np.loadtxt(self._folds, dtype=np.int64, delimiter=",", skiprows=1, ndmin=2)
        except (OSError, ValueError) as error:
            raise RunError(f"{self._folds} can't be read ({error}); choose another --run") from None
        if table.shape[1:] != (4,):
            raise RunError(f"{self._folds} has not the columns id,class,fold,group; choose another --run")
        return FoldTable(*table.T)

    def out_of_fold(self, member: str) -> Predictions:
        """Return a member's predictions for all training images, each by the fold that held it out."""
        return join([self.fold(member, fold).out_of_fold() for fold in range(self.config().folds.num_folds)])

    def blended_out_of_fold(self) -> Predictions:
        """Return the members' out-of-fold predictions blended as the ensemble does."""
        ensemble = self.load_json("ensemble.json")
        calibrated = {
            name: self.out_of_fold(name).at_temperature(ensemble["temperatures"][name])
            for name in self.config().members
        }
        return blend(calibrated, ensemble["weights"])

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Keep how long a stage took, also when it is stopped; a stage that goes on later stands there twice."""
        began = time.perf_counter()
        try:
            yield
        finally:
            row = {"stage": stage, "seconds": round(time.perf_counter() - began, 3)}
            self.save_json("times.json", [*self.times(), row])

    def times(self) -> list[dict[str, Any]]:
        """Return the stages that were timed, in their order."""
        return self.load_json("times.json") if (self.path / "times.json").exists() else []

    def save_json(self, name: str, value: Any) -> None:
        """Keep a JSON file such as metrics.json."""
        write_json(self.path / name, value)

    def load_json(self, name: str) -> Any:
        """Return the content of a JSON file of the run. Raises RunError if it is missing or damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} can't be read ({error})") from None

    def save_test(self, blended: Predictions, passes: NDArray[np.int64]) -> None:
        """Keep the blended predictions for the test images, and how many passes each took."""
        _save_predictions(self._test, blended, passes)

    @property
    def has_test(self) -> bool:
        """Whether the test images are predicted."""
        return self._test.exists()

    def test(self) -> Predictions:
        """Return the blended predictions for the test images. Raises RunError if there are none."""
        if not self.has_test:
            raise RunError(f"the run {self.name} has not predicted the test images yet")
        return _load_predictions(self._test)

    def test_passes(self) -> NDArray[np.int64]:
        """Return how many passes (fold x view) each test image took, in the order of `test`."""
        with _reading(self._test), self._test.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return found["passes"]


def _save_predictions(path: Path, predictions: Predictions, passes: NDArray[np.int64] | None = None) -> None:
    buffer = io.BytesIO()
    more = {} if passes is None else {"passes": passes}
    np.savez(buffer, allow_pickle=False, ids=predictions.ids, probabilities=predictions.probabilities, **more)
    write_bytes(path, buffer.getvalue())


def _load_predictions(path: Path) -> Predictions:
    with _reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return Predictions(found["ids"], found["probabilities"])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        raise RunError(
            f"{path} is damaged ({error}); delete {path.parent} to have this fold made again by the same command"
        ) from None


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _others(submissions: Path) -> str:
    names = sorted(path.parent.name for path in submissions.glob("*/config.yaml"))
    return f"; there are {', '.join(names)}" if names else ""
