"""submissions/<run>/: named paths, atomic writes, one writer at a time, what is done and what is not."""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.errors import ConfigError, RunError
from pipeline.files import write_json, write_text
from pipeline.predictions import Predictions, blend, join
from pipeline.config_files import build_config, differences, parse_yaml
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.prediction_files import load_predictions, reading, save_predictions
from pipeline.runs.checksums import Checksums

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
        self._checksums_file = Checksums(self.path)

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
        """Return the recipe with which the run was started. Raises RunError if it never was, or files were changed."""
        broken = self._checksums_file.broken()
        if broken:
            raise RunError(
                f"in the run {self.name} not as it wrote them: {', '.join(broken)}; put back what stood there, "
                "or choose another --run"
            )
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
        self._checksums_file.keep("input.json", "environment.json", self._config.name)

    @property
    def has_folds(self) -> bool:
        """Whether the folds are made."""
        return self._folds.exists()

    def save_folds(self, table: FoldTable) -> None:
        """Keep the folds, which are made once."""
        rows = zip(table.ids.tolist(), table.classes.tolist(), table.folds.tolist(), table.groups.tolist(), strict=True)
        write_text(self._folds, "id,class,fold,group\n" + "".join(f"{i},{c},{f},{g}\n" for i, c, f, g in rows))
        self._checksums_file.keep(self._folds.name)

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

    def ensemble_out_of_fold(self) -> Predictions:
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
        save_predictions(self._test, blended, passes)

    @property
    def has_test(self) -> bool:
        """Whether the test images are predicted."""
        return self._test.exists()

    def test(self) -> Predictions:
        """Return the blended predictions for the test images. Raises RunError if there are none."""
        if not self.has_test:
            raise RunError(f"the run {self.name} has not predicted the test images yet")
        return load_predictions(self._test)

    def test_passes(self) -> NDArray[np.int64]:
        """Return how many passes (fold x view) each test image took, in the order of `test`."""
        with reading(self._test), self._test.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return found["passes"]


def _others(submissions: Path) -> str:
    names = sorted(path.parent.name for path in submissions.glob("*/config.yaml"))
    return f"; there are {', '.join(names)}" if names else ""
