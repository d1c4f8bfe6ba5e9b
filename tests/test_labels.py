from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.labels import parse_labels
from pipeline.errors import InputError
from pipeline.task import CIFAR10


def parse(text, task=CIFAR10):
    return parse_labels(text.encode() if isinstance(text, str) else text, "trainLabels.csv", task)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_labels_are_sorted_by_id(line_end, start):
    labels = parse(start + line_end.join(["id,label", "10,truck", "9,cat", "1,airplane", ""]))

    assert labels.ids.tolist() == [1, 9, 10]
    assert [CIFAR10.class_names[label] for label in labels.labels] == ["airplane", "cat", "truck"]
    assert labels.labels.dtype == np.int64


def test_checksum_identifies_labels():
    one, other = parse("id,label\n1,cat\n2,dog\n"), parse("id,label\n1,dog\n2,cat\n")

    assert one.checksum() != other.checksum()
    assert one.checksum() == parse("id,label\n2,dog\n1,cat\n").checksum()


def test_columns_classes_and_ids_are_those_of_the_task():
    task = replace(CIFAR10, class_names=("no", "yes"), id_column="image", label_column="target", id_pattern="[0-9]{4}")

    labels = parse("image,target\n0020,yes\n0003,no\n", task)

    assert labels.ids.tolist() == [3, 20]
    assert labels.labels.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"invalid id '3' \(line 2\), expected whole numbers that match \[0-9\]\{4\}"):
        parse("image,target\n3,no\n", task)
    with pytest.raises(InputError, match=r"has the header 'id,label', expected 'image,target'"):
        parse("id,label\n0003,no\n", task)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,class\n1,cat\n", r"trainLabels\.csv has the header 'id,class', expected 'id,label'"),
        ("1,cat\n2,dog\n", r"has the header '1,cat', expected 'id,label'"),
        ("", r"can't be read as a CSV"),
        ("id,label\n", r"has a header but no rows"),
        ("id,label\n1,cat\n2,kitten\n", r"the label 'kitten' \(line 3\) is not one of airplane, automobile"),
        ("id,label\n1,Cat\n", r"the label 'Cat' \(line 2\) is not one of"),
        ("id,label\n1,\n", r"the label '' \(line 2\) is not one of"),
        ("id,label\n7,cat\n8,cat\n7,dog\n", r"duplicate id '7' \(line 4\)"),
        ("id,label\n1e3,cat\n", r"invalid id '1e3' \(line 2\), expected whole numbers that match \[1-9\]"),
        ("id,label\n0,cat\n-1,cat\n٣,cat\n4.0,cat\n", r"'0' \(line 2\), '-1' \(line 3\), '٣' \(line 4\) and 1 more"),
        ("id,label\n1,cat\n2,dog,extra\n", r"can't be read as a CSV"),
        (b"id,label\n1,c\xe4t\n", r"can't be read as a CSV in UTF-8"),
    ],
)
def test_error_names_the_value_and_its_line(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)
