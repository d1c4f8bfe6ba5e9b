"""Is a submission ready for upload? Checked against Kaggle's rules, the test ids, and the predictions of its run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.advice import for_run
from pipeline.results import Scores
from pipeline.submission.csv_file import check_submission, compare_with_predictions
from pipeline.submission.kaggle_client import upload_command
from pipeline.task import Ids, Task


@dataclass(frozen=True)
class Expected:
    """What a submission is checked against."""

    ids: Ids
    """Test ids [N], one for each row."""
    origin: str
    """Where the ids come from, for example "the test images of the run quick"."""
    labels: NDArray[np.int64] | None = None
    """Labels [N] that its run predicted; None for a file that is not the submission of a run."""
    rewrite: str = ""
    """The command that writes the submission of its run again."""

    @classmethod
    def of_run(cls, run_name: str, ids: Ids, labels: NDArray[np.int64] | None, input_dir: Path) -> Self:
        """Return what a file in a run's folder is checked against."""
        return cls(ids, f"the test images of the run {run_name}", labels, for_run("predict", run_name, input_dir))

    def __str__(self) -> str:
        """Return the origin and the number of rows."""
        return f"{self.origin}, {len(self.ids):,}"


def check(file: Path, expected: Expected, task: Task) -> list[str]:
    """Return every problem of a submission, none for a valid one. Raises InputError if it can't be read."""
    problems = check_submission(file, expected.ids, task)
    if problems or expected.labels is None:
        return problems
    differences = compare_with_predictions(file, expected.ids, expected.labels, task)
    return [f"{difference}; {expected.rewrite} writes it again" for difference in differences]


def wrong_size(num_rows: int, task: Task) -> str:
    """Return why Kaggle would reject a submission of so many rows, an empty string if it would not."""
    if num_rows == task.num_test:
        return ""
    return f"it has {num_rows:,} rows, Kaggle expects one for each of {task.num_test:,} test images"


def upload_message(run_name: str, config_name: str, scores: Scores) -> str:
    """Return the message of a run's submission: run, config and cross-validation."""
    low, high = scores.accuracy_ci95
    return f"{run_name}: {config_name}, CV {scores.accuracy:.4f} ({low:.4f} to {high:.4f})"


def upload_instructions(run_name: str, submission: Path, message: str, num_rows: int, task: Task) -> str:
    """Return the commands that upload a run's submission, or why Kaggle would reject it."""
    problem = wrong_size(num_rows, task)
    if problem:
        return f"not for upload: {problem}"
    command = upload_command(submission, message, task)
    return f"upload it: python run.py submit --run {run_name}\nor with the kaggle client alone: {command}"
