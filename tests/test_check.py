from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.results import Scores
from pipeline.submission.check import Expected, check, upload_instructions, upload_message, wrong_size
from pipeline.submission.csv_file import write_submission
from pipeline.task import CIFAR10

SUBMISSION = Path("submissions/mine/submission.csv")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, np.array([1, 2, 3]), np.array([3, 5, 0]), CIFAR10)
    return path


def test_submission_is_checked_against_ids_and_labels(file):
    ids = np.array([1, 2, 3])

    assert check(file, Expected(ids, "the input"), CIFAR10) == []
    assert check(file, Expected(ids, "the run", np.array([3, 5, 0])), CIFAR10) == []
    (problem,) = check(file, Expected(ids, "the run", np.array([3, 5, 1])), CIFAR10)
    assert "does not match the predictions of its run: '3,airplane' (line 4)" in problem
    (problem,) = check(file, Expected(ids + 1, "the run", np.array([3, 5, 0])), CIFAR10)[1:]
    assert problem == "missing ids: 4"


@pytest.mark.parametrize("line_end", ["\x0b", "\x1c", "\x85", "\u2028"])
def test_submission_with_other_line_ends_is_not_valid(file, line_end):
    file.write_text(file.read_text().replace("\n", line_end), encoding="utf-8")

    assert check(file, Expected(np.array([1, 2, 3]), "the run", np.array([3, 5, 0])), CIFAR10)


def test_label_with_a_line_end_is_not_valid(file):
    file.write_text(file.read_text().replace("cat", '"c\nat"'))

    (problem,) = check(file, Expected(np.array([1, 2, 3]), "the run", np.array([3, 5, 0])), CIFAR10)
    assert problem.startswith("unknown labels: 'c\\nat' (line 2)")


def test_folder_is_rejected_with_the_name_of_a_submission_in_it(tmp_path):
    with pytest.raises(InputError, match=r"is a folder, expected a submission, such as .*/submission\.csv$"):
        check(tmp_path, Expected(np.array([1]), "the input"), CIFAR10)


def test_expected_names_its_origin_and_number_of_rows():
    assert str(Expected(np.arange(1, 2001), "the test images of the run quick")) == (
        "the test images of the run quick, 2,000"
    )


def test_complete_submission_comes_with_the_commands_that_upload_it():
    scores = Scores(num_images=100, accuracy=0.91234, accuracy_ci95=(0.90987, 0.9148), log_loss=0.5)
    message = upload_message("mine", "quick", scores)

    assert upload_instructions("mine", SUBMISSION, message, 300_000, CIFAR10) == (
        "upload it: python run.py submit --run mine\n"
        "or with the kaggle client alone: kaggle competitions submit -c cifar-10 -f submissions/mine/submission.csv "
        "-m 'mine: quick, CV 0.9123 (0.9099 to 0.9148)'"
    )


def test_submission_of_the_wrong_size_is_not_for_upload():
    problem = "it has 60 rows, Kaggle expects one for each of 300,000 test images"

    assert wrong_size(300_000, CIFAR10) == ""
    assert wrong_size(60, CIFAR10) == problem
    assert upload_instructions("mine", SUBMISSION, "message", 60, CIFAR10) == f"not for upload: {problem}"


def test_edited_submission_comes_with_the_command_of_its_own_run(file):
    expected = Expected.of_run("mine", np.arange(1, 4), np.array([9, 9, 9]), Path("input"))

    (problem,) = check(file, expected, CIFAR10)
    assert problem.endswith("; python run.py predict --run mine writes it again")
