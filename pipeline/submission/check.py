"""Is a submission good to upload? Held against Kaggle's rules, the test images, and what its run predicted."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.submission import upload
from pipeline.submission import kaggle_client
from pipeline.task import NUM_TEST
from pipeline.data.source import search_source
from pipeline.submission.csv_file import check_labels, check_submission
from pipeline.errors import InputError
from pipeline.runs.run_folder import RunFolder
from pipeline.ledger import Ledger, Upload


def check(file: Path, input_dir: Path) -> tuple[list[str], str]:
    """Return all that is wrong with a submission, and which test ids it was held against.

    The file in a run's folder also has to say what the run predicted.
    """
    problems, origin, num_rows = _check(file, input_dir)
    return problems, f"{origin}, {num_rows:,}"


def upload_instructions(run: RunFolder, metrics: dict[str, Any]) -> str:
    """Return the line that uploads a run's submission with the kaggle client, or why Kaggle would not take it."""
    wrong_size = _wrong_size(len(run.test().ids))
    if wrong_size:
        return f"not for upload: {wrong_size}"
    by_client = kaggle_api.upload_command(run.submission, _upload_message(run, metrics))
    return f"upload it: python run.py submit --run {run.name}\nor by the client alone: {by_client}"


def submit(
    file: Path, ledger: Ledger, input_dir: Path, *, message: str | None, again: bool, wait_seconds: float
) -> tuple[Upload, float | None]:
    """Check a submission and upload it; return what became of it, and its run's out-of-fold accuracy."""
    folder = _run_of(file)
    problems, origin, num_rows = _check(file, input_dir)
    wrong_size = _wrong_size(num_rows)
    problems = problems or ([wrong_size] if wrong_size else [])
    if problems:
        against = f"{origin}, {num_rows:,}"
        raise InputError(f"{file} was not uploaded (checked against {against}):\n  " + "\n  ".join(problems))
    metrics = folder.load_json("metrics.json") if folder else None
    upload = submitting.submit(
        kaggle_api.Kaggle(),
        ledger,
        file,
        run=folder.name if folder else "",
        message=message or _upload_message(folder, metrics),
        again=again,
        wait_seconds=wait_seconds,
    )
    return upload, metrics["blend"]["accuracy"] if metrics else None


def _check(file: Path, input_dir: Path) -> tuple[list[str], str, int]:
    """Return the problems of a submission, what it was held against, and how many rows it should have."""
    ids, origin = _expected_ids(file, input_dir)
    run = _run_of(file)
    problems = check_submission(file, ids)
    if run is not None and not problems and file.name == run.submission.name:
        problems = check_labels(file, ids, run.test().probabilities.argmax(1))
    return problems, origin, len(ids)


def _expected_ids(file: Path, input_dir: Path) -> tuple[NDArray[np.int64], str]:
    """Return the ids that a submission should have: those of its run, else of the input, else Kaggle's."""
    run = _run_of(file)
    if run is not None:
        return run.test().ids, f"the test images of the run {run.name}"
    source = search_source(input_dir)
    if source is not None:
        return source.ids("test"), f"the test images of {source.name}"
    return np.arange(1, NUM_TEST + 1), "Kaggle's test images, as there is no input"


def _run_of(file: Path) -> RunFolder | None:
    """Return the run in whose folder a submission lies."""
    return RunFolder(file.parent.parent, file.parent.name) if (file.parent / "config.yaml").exists() else None


def _wrong_size(num_rows: int) -> str:
    """Say why Kaggle would not take a whole submission of so many rows; nothing if it would."""
    if num_rows == NUM_TEST:
        return ""
    return f"it has {num_rows:,} rows, Kaggle expects one for each of {NUM_TEST:,} test images"


def _upload_message(run: RunFolder | None, metrics: dict[str, Any] | None) -> str:
    if run is None or metrics is None:
        return "uploaded by hand"
    low, high = metrics["blend"]["accuracy_95"]
    recipe = run.load_json("environment.json").get("recipe", "")
    return f"{run.name}: {recipe}, CV {metrics['blend']['accuracy']:.4f} ({low:.4f} to {high:.4f})"
