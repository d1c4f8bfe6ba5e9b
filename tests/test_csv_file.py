import numpy as np
import pytest

from pipeline.task import CLASS_NAMES
from pipeline.submission.csv_file import check_labels, check_submission, find_problems, write_submission
from pipeline.errors import InputError

IDS = np.arange(1, 13)


def good_rows():
    return [f"{i},{CLASS_NAMES[i % 10]}" for i in IDS]


def problems_of(lines):
    return find_problems(("\n".join(lines) + "\n").encode(), IDS)


def test_written_in_ascending_order_with_line_feeds(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, np.array([10, 9, 100]), np.array([0, 3, 9]))

    assert path.read_bytes() == b"id,label\n9,cat\n10,airplane\n100,truck\n"
    assert check_submission(path, np.array([9, 10, 100])) == []
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]


def test_repeated_ids_are_never_written(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("what was there before")

    with pytest.raises(InputError, match=r"Kaggle would refuse it: repeated ids: '7' \(line 3\)"):
        write_submission(path, np.array([7, 7]), np.array([0, 1]))
    assert path.read_text() == "what was there before"


def test_the_order_of_rows_and_crlf_do_not_matter_to_kaggle():
    assert problems_of(["id,label", *reversed(good_rows())]) == []
    assert find_problems(("\r\n".join(["id,label", *good_rows()]) + "\r\n").encode(), IDS) == []


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        (["Id,Label", *good_rows()], ["the header is 'Id,Label', expected 'id,label'"]),
        (
            ["id,label", *good_rows()[:-5]],
            ["it has 7 rows, expected 12", "missing ids: 8, 9, 10 and 2 more"],
        ),
        (
            ["id,label", *good_rows()[:-1], good_rows()[0]],
            ["repeated ids: '1' (line 13)", "missing ids: 12"],
        ),
        (
            ["id,label", *good_rows()[:-1], "13,cat"],
            ["ids that are not in the test set: '13' (line 13)", "missing ids: 12"],
        ),
        (
            ["id,label", *good_rows()[:-2], "11,Cat", "12,kitten"],
            [f"unknown labels: 'Cat' (line 12), 'kitten' (line 13); expected one of {', '.join(CLASS_NAMES)}"],
        ),
        (
            ["id,label", *good_rows()[:-1], "12,cat,0.9"],
            ["not two columns: '12,cat,0.9' (line 13)", "missing ids: 12"],
        ),
        (
            ["id,label", *good_rows()[:-1], "12.0,cat"],
            ["ids that are not in the test set: '12.0' (line 13)", "missing ids: 12"],
        ),
    ],
    ids=["header", "count", "repeated", "foreign", "labels", "columns", "float id"],
)
def test_every_fault_is_told_with_its_lines(lines, problems):
    assert problems_of(lines) == problems


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"\xef\xbb\xbfid,label\n1,cat\n", "byte order mark"),
        (b"id,label\n1,c\xe4t\n", "line 2 is not UTF-8 (byte 0xe4)"),
        ("id,label\n1,cat\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b"id,label\n1,cat\n2,\0\n", "line 3 holds a NUL byte"),
    ],
)
def test_what_is_no_text_is_told(data, problem):
    assert problem in find_problems(data, IDS)[0]


def test_all_faults_come_at_once():
    found = problems_of(["label,id", "1,cat", "1,cow", "99,cat"])

    assert len(found) == 6


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.csv can't be read: No such file"):
        check_submission(tmp_path / "nothing.csv", IDS)


def test_labels_that_the_run_did_not_predict_are_named(tmp_path):
    path, ids = tmp_path / "submission.csv", np.arange(1, 6)
    write_submission(path, ids, np.array([0, 1, 2, 3, 4]))

    assert check_labels(path, ids, np.array([0, 1, 2, 3, 4])) == []
    (problem,) = check_labels(path, ids, np.array([0, 1, 2, 9, 4]))
    assert problem.startswith("the run predicted something else than '4,cat' (line 5)")
