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


def test_blank_lines_are_left_out():
    assert parse("\n\nid,label\n1,cat\n\n2,dog\n \n\n").ids.tolist() == [1, 2]


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
        (
            "id,label\n1,cat\n2,dog,extra\n",
            r"expected the fields id,label in each row, found '2,dog,extra' \(line 3\)$",
        ),
        ("id,label\n1,200,cat\n2,199,dog\n", r"found '1,200,cat' \(line 2\), '2,199,dog' \(line 3\)$"),
        ("id,label\n1,cat,\n2,dog\n", r"found '1,cat,' \(line 2\)$"),
        ("id,label\n1,cat\n2\n3,dog\n", r"found '2' \(line 3\)$"),
        ("id,label,\n1,cat,\n", r"has the header 'id,label,', expected 'id,label'"),
        ("id,label\n1,cat\n,\n", r"invalid id '' \(line 3\)"),
        ("id,label\n\n1,cat\n \n\n2,kitten\n", r"the label 'kitten' \(line 6\)"),
        ("id,label\r\n\r\n1,kitten\r\n", r"the label 'kitten' \(line 3\)"),
        ("id,label\r1,cat\r2,kitten\r", r"the label 'kitten' \(line 3\)"),
        ('id,label\n1,"c\nat"\n2,kitten\n', r"the label 'c\\nat' \(line 2\), 'kitten' \(line 4\)"),
        ('"id","label"\n"1","cat"\n"2","kitten"\n', r"the label 'kitten' \(line 3\)"),
        ('id,label\n1,"cat"\n2,"dog\n3,frog\n', r"line 3 is not valid CSV: unexpected end of data"),
        ('id,label\n1,"cat"s\n', r"line 2 is not valid CSV"),
        ("id,label\n1,cat\x0b2,dog\u2028", r"found '1,cat\\x0b2,dog\\u2028' \(line 2\)"),
        ("id,label\n1,cat\x85\n", r"the label 'cat\\x85' \(line 2\)"),
        (b"id,label\n1,c\xe4t\n", r"can't be read as a CSV in UTF-8: invalid byte 0xe4 \(line 2\); save it as UTF-8"),
        (b"\xef\xbb\xbfid,label\r1,c\xe4t\r", r"invalid byte 0xe4 \(line 2\)"),
        ("id,label\n1,cat\n".encode("utf-16"), r"invalid byte 0xff \(line 1\); save it as UTF-8"),
    ],
)
def test_error_names_the_value_and_its_line(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)
