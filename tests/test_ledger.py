import io
import json
import time

import pytest
from rich.console import Console

from pipeline.errors import RunError
from pipeline.ledger import Ledger, Upload
from pipeline.runs_table import print_runs, runs_table, sorted_runs


def make_run(submissions, name, accuracy=None, date="2026-11-01T00:00:00+00:00"):
    folder = submissions / name
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text(json.dumps({"recipe": "quick", "date": date}))
    if accuracy is not None:
        blend = {"accuracy": accuracy, "accuracy_95": [accuracy - 0.01, accuracy + 0.01]}
        member = {"folds": {"0": {}, "1": {}}, "compute": {"training_seconds": 90.0}}
        (folder / "metrics.json").write_text(json.dumps({"members": {"net": member}, "blend": blend}))


def upload(run, ref, private, sha256="a" * 64):
    return Upload(sha256, run, f"{run}.csv", f"message {ref}", "2026-11-02", ref, "complete", private - 0.01, private)


@pytest.fixture
def book(tmp_path):
    return Ledger(tmp_path)


def test_a_run_stands_beside_its_best_upload(book, tmp_path):
    make_run(tmp_path, "one", 0.8)
    book.keep(upload("one", 1, 0.79))
    book.keep(upload("one", 2, 0.81))
    book.keep(upload("one", 3, 0.78))
    (row,) = book.rows()

    assert (row.run, row.recipe, row.members, row.folds, row.minutes) == ("one", "quick", "net", 2, 1.5)
    assert (row.cv, row.cv_low, row.cv_high) == pytest.approx((0.8, 0.79, 0.81))
    assert (row.public, row.private, row.status) == (0.80, 0.81, "complete")


def test_an_upload_is_written_down_once(book):
    book.keep(upload("one", 1, 0.5))
    book.keep(upload("one", 1, 0.6))

    assert [each.private for each in book.uploads()] == [0.6]
    assert [each.private for each in book.of_file("a" * 64)] == [0.6]
    assert book.of_file("b" * 64) == []


@pytest.mark.parametrize("text", ["{", '[{"no": 1}]', "[1]"])
def test_a_damaged_book_is_told_and_kept(book, tmp_path, text):
    (tmp_path / "ledger.json").write_text(text)

    with pytest.raises(RunError, match=r"ledger\.json can't be read"):
        book.keep(upload("one", 1, 0.5))
    assert (tmp_path / "ledger.json").read_text() == text


def test_a_broken_run_does_not_hide_the_others(book, tmp_path):
    make_run(tmp_path, "good", 0.8)
    make_run(tmp_path, "bad")
    (tmp_path / "bad" / "metrics.json").write_text("{")

    assert {row.run: row.cv for row in book.rows()} == {"good": 0.8, "bad": None}


def test_runs_are_sorted_and_filtered(book, tmp_path):
    make_run(tmp_path, "b-old", 0.7, "2026-01-01")
    make_run(tmp_path, "a-new", 0.6, "2026-02-01")
    make_run(tmp_path, "c-begun", date="2026-03-01")
    rows = book.rows()

    assert [row.run for row in rows] == ["c-begun", "a-new", "b-old"]
    assert [row.run for row in sorted_runs(rows, "cv", "")] == ["b-old", "a-new", "c-begun"]
    assert [row.run for row in sorted_runs(rows, "run", "")] == ["a-new", "b-old", "c-begun"]
    assert [row.run for row in sorted_runs(rows, "date", "NEW")] == ["a-new"]
    with pytest.raises(RunError, match="--sort nothing: expected one of run, recipe"):
        sorted_runs(rows, "nothing", "")


def test_it_prints_csv_and_json(book, tmp_path, capsys):
    make_run(tmp_path, "one", 0.8)
    print_runs(book.rows(), as_csv=False, as_json=False)
    header, row = capsys.readouterr().out.splitlines()
    print_runs(book.rows(), as_csv=False, as_json=True)

    assert header == "run,recipe,members,folds,cv,cv_low,cv_high,minutes,public,private,status,date"
    assert row.startswith("one,quick,net,2,0.8,")
    assert json.loads(capsys.readouterr().out)[0]["cv"] == 0.8


def test_a_thousand_runs_are_listed_within_a_second_of_computing(book, tmp_path, whole_run):
    run = whole_run[0] / "submissions" / "tiny"
    texts = {name: (run / name).read_text() for name in ("environment.json", "metrics.json")}
    for number in range(1000):
        (tmp_path / f"run_{number}").mkdir()
        for name, text in texts.items():
            (tmp_path / f"run_{number}" / name).write_text(text)
    uploads = [vars(upload(f"run_{number}", number, 0.5)) for number in range(1000)]
    (tmp_path / "ledger.json").write_text(json.dumps(uploads))
    began = time.process_time()
    rows = sorted_runs(book.rows(), "cv", "")
    Console(file=io.StringIO(), width=200).print(runs_table(rows))

    assert len(rows) == 1000
    assert time.process_time() - began < 1
