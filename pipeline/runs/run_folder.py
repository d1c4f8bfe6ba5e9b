"""submissions/<run>/: named paths, atomic writes, one writer at a time."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from pipeline.config import Config
from pipeline.config_files import DEFAULT_CONFIG, build_config, differences, parse_yaml
from pipeline.error_messages import explain_cause
from pipeline.errors import ConfigError, RunError
from pipeline.files import write_json, write_text
from pipeline.ledger import SUBMISSIONS
from pipeline.locks import LockedError, file_lock
from pipeline.predictions import CascadePredictions, Predictions
from pipeline.progress import log
from pipeline.results import Arrangement, CascadeStats, Metrics, Result, StageTime
from pipeline.runs.checksums import CHECKSUMS_JSON, Checksums
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.prediction_files import CorruptedFileError, load_predictions, read_errors, save_predictions

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
RESERVED_NAMES = ("ledger.json", "index.html", "mlflow.db", "mlflow_artifacts")  # others in submissions/
ResultType = TypeVar("ResultType", bound=Result)
METRICS, ENSEMBLE, CASCADE, TIMES = "metrics.json", "ensemble.json", "cascade.json", "times.json"
ARRANGEMENT = "arrangement.json"
SEARCH = "search.json"  # in the folder of a hyperparameter search


def check_run_name(name: str) -> None:
    """Raise RunError for a name that is not a safe and free folder name."""
    if not RUN_NAME.fullmatch(name):
        raise RunError(
            f"--run {name!r}: expected 1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit"
        )
    if name.lower() in RESERVED_NAMES:
        raise RunError(f"--run {name}: this name is taken in submissions/; choose another name")


class RunFolder:
    """The files of one run."""

    def __init__(self, submissions: Path, name: str) -> None:
        self.name = name
        self.path = submissions / name
        self.submission = self.path / "submission.csv"
        self.report = self.path / "report.html"
        self.metrics_path = self.path / METRICS
        self._config = self.path / "config.yaml"
        self._folds = self.path / "folds.csv"
        self._test_predictions = self.path / "test_predictions.npz"
        self._checksums = Checksums(self.path)

    @property
    def exists(self) -> bool:
        """Whether the run was started."""
        return self._config.exists()

    def fold(self, member: str, fold: int) -> FoldFolder:
        """Return the folder of a member on a fold (from 0)."""
        return FoldFolder(self.path / member / f"fold_{fold}")

    def refit(self, member: str, number: int) -> FoldFolder:
        """Return the folder of a member's refit (from 0), whose out-of-fold predictions are empty."""
        return FoldFolder(self.path / member / f"refit_{number}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for its only writer. Raises RunError with the owner's process id.

        The operating system releases the lock when the process ends, however that happens.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.path / ".lock"))
            except LockedError as error:
                raise RunError(
                    f"the run {self.name} is in use by process {error}; wait for it, or choose another name with --run"
                ) from None
            except OSError as error:
                where = self.path if error.filename is None else error.filename
                raise RunError(f"{where} can't be written: {explain_cause(error)}") from None
            yield
            self._require_intact()  # somebody may have deleted it meanwhile

    def _require_intact(self) -> None:
        """Raise RunError if files that the run wrote were changed or deleted."""
        started = self._folds.exists() or any(self.path.glob("*/fold_*/*")) or any(self.path.glob("*/refit_*/*"))
        names = (self._config.name, "environment.json", "input.json", self._folds.name, CHECKSUMS_JSON)
        lost = [name for name in names if not (self.path / name).exists()] if started else []
        changed = lost or self._checksums.corrupted()
        if changed:
            raise RunError(
                f"files of the run {self.name} were changed or deleted since it wrote them: {', '.join(changed)}; "
                "restore the original files, or choose another --run"
            )

    def config(self) -> Config:
        """Return the config that the run was started with. Raises RunError if there is none, or files were edited."""
        self._require_intact()
        try:
            text = self._config.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"there is no run {self.name} in {self.path.parent}{_others(self.path.parent)}") from None
        try:
            return build_config(parse_yaml(text, str(self._config)), str(self._config))
        except ConfigError as error:
            raise RunError(
                f"the run {self.name} is of another version of this project; choose another --run:\n{error}"
            ) from None

    def check_config(self, config: Config) -> None:
        """Raise ConfigError with the differences if the run has another config, hardware settings aside."""
        self._require_intact()
        changes = differences(self.config().experiment(), config.experiment()) if self.exists else []
        if changes:
            raise ConfigError(
                f"the run {self.name} was started with another config; choose another --run, or revert these changes:"
                "\n  " + "\n  ".join(changes)
            )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise RunError with the differences if the run was started on other input files."""
        changes = differences(self.load_json("input.json"), dict(inputs))
        if changes:
            raise RunError(
                f"the run {self.name} was started on other input; choose another --run, or give the same input:\n  "
                + "\n  ".join(changes)
            )

    def create_or_verify(self, config: Config, inputs: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Start the run, or verify that it was started with the same config and input.

        Raises ConfigError or RunError with the differences.
        """
        self.check_config(config)
        if self.exists:
            self.check_inputs(inputs)
            return
        write_json(self.path / "input.json", inputs)
        write_json(self.path / "environment.json", environment)
        write_text(self._config, config.to_yaml())
        self._checksums.record("input.json", "environment.json", self._config.name)

    def environment(self) -> dict[str, Any]:
        """Return date, versions, hardware and commit of the run's start."""
        return self.load_json("environment.json")

    @property
    def has_folds(self) -> bool:
        """Whether the images are split into folds."""
        return self._folds.exists()

    def save_folds(self, table: FoldTable) -> None:
        """Save the folds."""
        table.save(self._folds)
        self._checksums.record(self._folds.name)

    def folds(self) -> FoldTable:
        """Return the folds. Raises RunError if they are missing or corrupted."""
        return FoldTable.load(self._folds)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Record the seconds of a stage, also when it is interrupted; a resumed stage has several entries."""
        start = time.perf_counter()
        try:
            yield
        finally:
            entry = StageTime(stage=stage, seconds=round(time.perf_counter() - start, 3))
            self.save_json(TIMES, [each.model_dump() for each in (*self.times(), entry)])

    def times(self) -> list[StageTime]:
        """Return the recorded stages, in order; none, after a warning, if the file is corrupted."""
        path = self.path / TIMES
        try:
            return TypeAdapter(list[StageTime]).validate_json(path.read_bytes()) if path.exists() else []
        except (OSError, ValueError):
            log.warning("%s is corrupted; the times of earlier commands are lost", path)
            return []

    def arrangement(self, names: Sequence[str] = ()) -> Arrangement:
        """Return with how many threads the jobs so far computed; none, after a warning, if the file is corrupted.

        Runs of earlier versions have no such file: all their jobs, whose `names` are given, had the same number.
        """
        path = self.path / ARRANGEMENT
        if not path.exists():
            number = self.environment().get("num_threads", 0)
            return Arrangement(training=dict.fromkeys(names, number) if number else {}, prediction=number)
        try:
            return Arrangement.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            log.warning("%s is corrupted; the number of threads may change", path)
            return Arrangement()

    def save_arrangement(self, arrangement: Arrangement) -> None:
        """Save with how many threads the jobs compute."""
        self.save_json(ARRANGEMENT, arrangement.model_dump())

    def save_json(self, name: str, value: Any) -> None:
        """Write a JSON file, atomically."""
        write_json(self.path / name, value)

    def load_json(self, name: str) -> Any:
        """Return the content of a JSON file. Raises RunError if it is missing or corrupted."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} can't be read ({error})") from None

    def save_metrics(self, metrics: Metrics) -> None:
        """Save the metrics."""
        self.save_json(METRICS, metrics.model_dump(mode="json"))

    def metrics(self) -> Metrics:
        """Return the metrics of the last evaluation. Raises RunError if they are missing or corrupted."""
        return self._load_result(METRICS, Metrics, "validate")

    def save_test_predictions(self, test: CascadePredictions) -> None:
        """Save the ensemble's test predictions, and how the cascade made them."""
        save_predictions(self._test_predictions, test.predictions, forward_passes=test.forward_passes)
        self.save_json(CASCADE, test.stats.model_dump(mode="json"))

    @property
    def _predict_again(self) -> str:
        return f"python run.py predict --run {self.name} (with the --input of its training) writes them"

    def existing_submission(self) -> Path:
        """Return the path of submission.csv. Raises RunError if there is none, or no such run."""
        if not self.submission.exists():
            self.config()
            raise RunError(f"{self.submission} does not exist; {self._predict_again}")
        return self.submission

    @property
    def has_test_predictions(self) -> bool:
        """Whether the test images are predicted."""
        return self._test_predictions.exists()

    def test_predictions(self) -> Predictions:
        """Return the ensemble's test predictions. Raises RunError if there are none."""
        if not self.has_test_predictions:
            raise RunError(f"the run {self.name} has no test predictions yet; {self._predict_again}")
        with self._test_predictions_errors():
            return load_predictions(self._test_predictions)

    def test_results(self) -> CascadePredictions:
        """Return the test predictions with the cascade's statistics. Raises RunError if there are none."""
        predictions = self.test_predictions()
        path = self._test_predictions
        with self._test_predictions_errors(), read_errors(path), np.load(path, allow_pickle=False) as arrays:
            forward_passes = arrays["forward_passes"]
        return CascadePredictions(predictions, forward_passes, self._load_result(CASCADE, CascadeStats, "predict"))

    @contextmanager
    def _test_predictions_errors(self) -> Iterator[None]:
        """Replace the suggested fix in the error, which is that for a fold."""
        try:
            yield
        except CorruptedFileError as error:
            raise RunError(f"{error.reason}; {self._predict_again}") from None

    def _load_result(self, name: str, result: type[ResultType], command: str) -> ResultType:
        """Read a typed result, which a command writes. Raises RunError."""
        path = self.path / name
        try:
            return result.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{path} can't be read ({error}); python run.py {command} --run {self.name}") from None


def open_run(name: str | None) -> RunFolder:
    """Return the folder of a run, that of the default config without a name. Raises RunError for that of a search."""
    name = DEFAULT_CONFIG.stem if name is None else name
    check_run_name(name)
    if (SUBMISSIONS / name / SEARCH).exists():
        raise RunError(f"{SUBMISSIONS / name} is a hyperparameter search, not a run; choose another --run")
    return RunFolder(SUBMISSIONS, name)


def _others(submissions: Path) -> str:
    names = sorted(path.parent.name for path in submissions.glob("*/config.yaml"))
    return f"; existing runs: {', '.join(names)}" if names else ""
