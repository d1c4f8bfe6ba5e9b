"""A submission -> Kaggle: what it is checked against, its check, its upload."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.data.source import find_source_or_none
from pipeline.errors import InputError
from pipeline.ledger import SUBMISSIONS, Ledger, Upload
from pipeline.results import Scores
from pipeline.runs.run_folder import RunFolder
from pipeline.submission import upload
from pipeline.submission.check import Expected, check, upload_message, wrong_size
from pipeline.submission.csv_file import read_submission
from pipeline.submission.kaggle_client import KaggleClient
from pipeline.task import Task


def expected_submission(file: Path, input_dir: Path, task: Task) -> Expected:
    """Return what a file is checked against: its run's predictions, else the test ids of the input, else Kaggle's."""
    run = _run_of(file)
    if run is not None:
        test = run.test_predictions()
        labels = test.labels if file.name == run.submission.name else None
        return Expected.of_run(run.name, test.ids, labels, input_dir)
    source = find_source_or_none(input_dir, task)
    if source is not None:
        return Expected(source.ids("test"), f"the test images of {source.name}")
    return Expected(np.arange(1, task.num_test + 1), "Kaggle's test images, as there is no input")


def submit(
    file: Path, input_dir: Path, task: Task, *, message: str | None, again: bool, wait_seconds: float
) -> tuple[Upload, Scores | None]:
    """Check a submission and upload it once; return the upload, and its run's out-of-fold scores.

    Raises InputError for a file that Kaggle would reject, and KaggleError.
    """
    expected, run = expected_submission(file, input_dir, task), _run_of(file)
    with _copy(file) as copy:
        problems = check(copy, expected, task)
        if not problems and (size_problem := wrong_size(len(expected.ids), task)):
            problems = [size_problem]
        if problems:
            raise InputError(f"{file} was not uploaded (checked against {expected}):\n  " + "\n  ".join(problems))
        scores = ensemble_scores(run) if run else None
        entry = upload.submit(
            KaggleClient(task),
            Ledger(SUBMISSIONS),
            copy,
            name=str(file),
            run=run.name if run else "",
            message=message or message_of(run, scores),
            again=again,
            wait_seconds=wait_seconds,
        )
    return entry, scores


@contextmanager
def _copy(file: Path) -> Iterator[Path]:
    """Copy a submission: what is checked is uploaded, even if another process changes the file meanwhile.

    Raises InputError for what can be read only once, such as a pipe.
    """
    if file.exists() and not file.is_file() and not file.is_dir():
        raise InputError(
            f"{file} is not a regular file, expected a submission that can be read twice; save it to a file"
        )
    with TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        copy.write_bytes(read_submission(file))
        yield copy


def refresh_scores(task: Task) -> list[Upload]:
    """Fetch the scores that are missing in the ledger; return the uploads that have one now."""
    return upload.refresh(KaggleClient(task), Ledger(SUBMISSIONS))


def message_of(run: RunFolder | None, scores: Scores | None) -> str:
    """Return the default message of an upload: run, config and out-of-fold accuracy, where all folds have one."""
    if run is None:
        return "uploaded by hand"
    config = str(run.environment().get("config", ""))
    return f"{run.name}: {config}" if scores is None else upload_message(run.name, config, scores)


def ensemble_scores(run: RunFolder) -> Scores | None:
    """Return the out-of-fold scores of a run's ensemble; None before all folds are trained."""
    ensemble = run.metrics().ensemble
    return ensemble.scores if ensemble else None


def _run_of(file: Path) -> RunFolder | None:
    """Return the run whose folder contains a file."""
    # Links are not resolved: the name of a link to a run's folder is the name of the run.
    folder = Path(os.path.abspath(file)).parent  # noqa: PTH100
    is_run = all((folder / name).exists() for name in ("config.yaml", "environment.json"))
    return RunFolder(folder.parent, folder.name) if is_run else None
