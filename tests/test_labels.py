import numpy as np
import pytest

from pipeline.task import CLASS_NAMES
from pipeline.data.labels import parse_labels
from pipeline.errors import InputError


def parse(text):
    return parse_labels(text.encode() if isinstance(text, str) else text, "trainLabels.csv")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_labels_come_in_the_order_of_their_ids(line_end, start):
    labels = parse(start + line_end.join(["id,label", "10,truck", "9,cat", "1,airplane", ""]))

    assert labels.ids.tolist() == [1, 9, 10]
    assert [CLASS_NAMES[kind] for kind in labels.classes] == ["airplane", "cat", "truck"]
    assert labels.classes.dtype == np.int64


def test_the_checksum_tells_labels_apart():
    one, other = parse("id,label\n1,cat\n2,dog\n"), parse("id,label\n1,dog\n2,cat\n")

    assert one.checksum() != other.checksum()
    assert one.checksum() == parse("id,label\n2,dog\n1,cat\n").checksum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,class\n1,cat\n", r"trainLabels\.csv has the header 'id,class', expected 'id,label'"),
        ("1,cat\n2,dog\n", r"has the header '1,cat', expected 'id,label'"),
        ("", r"can't be read as a CSV"),
        ("id,label\n", r"has a header and no rows"),
        ("id,label\n1,cat\n2,kitten\n", r"the label 'kitten' \(line 3\) is not one of airplane, automobile"),
        ("id,label\n1,Cat\n", r"the label 'Cat' \(line 2\) is not one of"),
        ("id,label\n1,\n", r"the label '' \(line 2\) is not one of"),
        ("id,label\n7,cat\n8,cat\n7,dog\n", r"the id '7' \(line 4\) stands there a second time"),
        ("id,label\n1e3,cat\n", r"'1e3' \(line 2\) is no id, expected whole numbers from 1"),
        ("id,label\n0,cat\n-1,cat\n٣,cat\n4.0,cat\n", r"'0' \(line 2\), '-1' \(line 3\), '٣' \(line 4\) and 1 more"),
        ("id,label\n1,cat\n2,dog,extra\n", r"can't be read as a CSV"),
        (b"id,label\n1,c\xe4t\n", r"can't be read as a CSV in UTF-8"),
    ],
)
def test_a_fault_is_named_with_its_line(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)
