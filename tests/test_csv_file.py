import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.submission.csv_file import check_submission, compare_with_predictions, find_problems, write_submission
from pipeline.task import CIFAR10

IDS = np.arange(1, 13)


def good_rows():
    return [f"{i},{CIFAR10.class_names[i % 10]}" for i in IDS]


def problems_of(lines):
    return find_problems(("\n".join(lines) + "\n").encode(), IDS, CIFAR10)


def test_rows_are_written_in_ascending_order_with_line_feeds(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, np.array([10, 9, 100]), np.array([0, 3, 9]), CIFAR10)

    assert path.read_bytes() == b"id,label\n9,cat\n10,airplane\n100,truck\n"
    assert check_submission(path, np.array([9, 10, 100]), CIFAR10) == []
    assert [path.name for path in tmp_path.iterdir()] == ["submission.csv"]


def test_duplicate_ids_are_not_written(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("the previous file")

    with pytest.raises(InputError, match=r"was not written, Kaggle would reject it: duplicate ids: '7' \(line 3\)"):
        write_submission(path, np.array([7, 7]), np.array([0, 1]), CIFAR10)
    assert path.read_text() == "the previous file"


def test_any_order_of_rows_and_crlf_are_accepted():
    assert problems_of(["id,label", *reversed(good_rows())]) == []
    assert find_problems(("\r\n".join(["id,label", *good_rows()]) + "\r\n").encode(), IDS, CIFAR10) == []


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
            ["duplicate ids: '1' (line 13)", "missing ids: 12"],
        ),
        (
            ["id,label", *good_rows()[:-1], "13,cat"],
            ["ids that are not in the test set: '13' (line 13)", "missing ids: 12"],
        ),
        (
            ["id,label", *good_rows()[:-2], "11,Cat", "12,kitten"],
            [f"unknown labels: 'Cat' (line 12), 'kitten' (line 13); expected one of {', '.join(CIFAR10.class_names)}"],
        ),
        (
            ["id,label", *good_rows()[:-1], "12,cat,0.9"],
            ["expected two columns, found '12,cat,0.9' (line 13)", "missing ids: 12"],
        ),
        (
            ["id,label", *good_rows()[:-1], "12.0,cat"],
            ["ids that are not in the test set: '12.0' (line 13)", "missing ids: 12"],
        ),
    ],
    ids=["header", "count", "duplicate", "unexpected", "labels", "columns", "float id"],
)
def test_every_problem_is_listed_with_its_lines(lines, problems):
    assert problems_of(lines) == problems


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"\xef\xbb\xbfid,label\n1,cat\n", "byte order mark"),
        (b"id,label\n1,c\xe4t\n", "line 2 is not UTF-8 (byte 0xe4)"),
        ("id,label\n1,cat\n".encode("utf-16-le"), "line 1 contains a NUL byte"),
        (b"id,label\n1,cat\n2,\0\n", "line 3 contains a NUL byte"),
        (b"id,label\r1,cat\r2,c\xe4t\r", "line 3 is not UTF-8 (byte 0xe4)"),
    ],
)
def test_invalid_text_is_one_problem(data, problem):
    assert problem in find_problems(data, IDS, CIFAR10)[0]


@pytest.mark.parametrize("line_end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_only_lf_and_cr_end_a_line(line_end):
    lines = ["id,label", *good_rows()]

    assert find_problems(line_end.join(lines).encode(), IDS, CIFAR10)
    assert problems_of([*lines[:5], line_end.join(lines[5:7]), *lines[7:]])[1].startswith("expected two columns, found")
    assert problems_of([*lines[:-1], lines[-1] + line_end])[0].startswith("unknown labels: '")
    assert problems_of([lines[0] + line_end, *lines[1:]])[0].startswith("the header is ")


def test_line_end_in_a_quoted_label_is_reported_with_the_lines_after_it():
    rows = [*good_rows()[:4], '5,"d\nog"', *good_rows()[5:-1], "12,kitten"]

    assert problems_of(["id,label", *rows]) == [
        f"unknown labels: 'd\\nog' (line 6), 'kitten' (line 14); expected one of {', '.join(CIFAR10.class_names)}"
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (['1,"cat"s', "2,dog"], "line 2 is not valid CSV: ',' expected after '\"'"),
        (["1,cat", '2,"dog'], "line 3 is not valid CSV: unexpected end of data"),
        (["1,cat", "", "2,dog"], "expected two columns, found '' (line 3)"),
        (["1,cat,", "2,dog"], "expected two columns, found '1,cat,' (line 2)"),
    ],
)
def test_row_that_another_reader_may_read_otherwise_is_reported(rows, problem):
    assert problem in problems_of(["id,label", *rows])


def test_all_problems_are_listed_at_once():
    problems = problems_of(["label,id", "1,cat", "1,cow", "99,cat"])

    assert len(problems) == 6


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.csv can't be read: does not exist"):
        check_submission(tmp_path / "nothing.csv", IDS, CIFAR10)


def test_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"is a folder, expected a submission, such as .*submission\.csv$"):
        check_submission(tmp_path, IDS, CIFAR10)


def test_labels_that_differ_from_the_predictions_are_listed(tmp_path):
    path, ids = tmp_path / "submission.csv", np.arange(1, 6)
    write_submission(path, ids, np.array([0, 1, 2, 3, 4]), CIFAR10)

    assert compare_with_predictions(path, ids, np.array([0, 1, 2, 3, 4]), CIFAR10) == []
    (problem,) = compare_with_predictions(path, ids, np.array([0, 1, 2, 9, 4]), CIFAR10)
    assert problem == "it does not match the predictions of its run: '4,cat' (line 5)"


def test_comparison_names_the_lines_of_the_file(tmp_path):
    path, ids = tmp_path / "submission.csv", np.array([1, 2])
    path.write_text('id,label\r"1","airplane"\r2,cat\r', newline="")

    assert compare_with_predictions(path, ids, np.array([0, 3]), CIFAR10) == []
    (problem,) = compare_with_predictions(path, ids, np.array([0, 1]), CIFAR10)
    assert "'2,cat' (line 3)" in problem
