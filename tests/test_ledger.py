import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.console import print_runs, sorted_runs
from pipeline.errors import RunError
from pipeline.ledger import Ledger, Upload
from pipeline.results import Compute, EnsembleMetrics, MemberMetrics, Metrics, Scores


def make_run(submissions, name, accuracy=None, date="2026-11-01T00:00:00+00:00"):
    folder = submissions / name
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text(json.dumps({"config": "quick", "date": date}))
    if accuracy is not None:
        interval = (accuracy - 0.01, accuracy + 0.01)
        scores = Scores(num_images=100, accuracy=accuracy, accuracy_ci95=interval, log_loss=0.5)
        compute = Compute(training_flops=1e15, training_seconds=90.0, prediction_flops_per_image=1e9)
        member = MemberMetrics(folds={0: scores, 1: scores}, compute=compute, out_of_fold=scores)
        ensemble = EnsembleMetrics(
            temperatures={"net": 1.0}, weights={"net": 1.0}, scores=scores, per_class={}, confusion_matrix=[]
        )
        metrics = Metrics(members={"net": member}, ensemble=ensemble)
        (folder / "metrics.json").write_text(metrics.model_dump_json())


def upload(run, ref, private, sha256="a" * 64):
    return Upload(sha256, run, f"{run}.csv", f"message {ref}", "2026-11-02", ref, "complete", private - 0.01, private)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path)


def test_run_is_listed_with_its_best_upload(ledger, tmp_path):
    make_run(tmp_path, "one", 0.8)
    ledger.record_upload(upload("one", 1, 0.79))
    ledger.record_upload(upload("one", 2, 0.81))
    ledger.record_upload(upload("one", 3, 0.78))
    (row,) = ledger.rows()

    assert (row.run, row.config, row.members, row.folds, row.minutes) == ("one", "quick", "net", 2, 1.5)
    assert (row.cv, row.cv_low, row.cv_high) == pytest.approx((0.8, 0.79, 0.81))
    assert (row.public, row.private, row.status) == (0.80, 0.81, "complete")


def test_upload_is_recorded_once(ledger):
    ledger.record_upload(upload("one", 1, 0.5))
    ledger.record_upload(upload("one", 1, 0.6))

    assert [each.private for each in ledger.uploads()] == [0.6]
    assert [each.private for each in ledger.uploads_of("a" * 64)] == [0.6]
    assert ledger.uploads_of("b" * 64) == []


ENTRY = '{"sha256": "a", "run": "r", "file": "f", "message": "m", "date": "d"'


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "null",
        "{}",
        '[{"no": 1}]',
        "[1]",
        f'[{ENTRY}, "public": "high"}}]',
        f'[{ENTRY}, "ref": [1]}}]',
        f'[{ENTRY}, "unknown": 1}}]',
        f'[{ENTRY}, "date": 1}}]',
        "[" * 100_000,
        b"\xff\xfe[]",
    ],
    ids=repr,
)
def test_corrupted_ledger_is_reported_and_not_overwritten(ledger, tmp_path, text):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "ledger.json").write_bytes(content)

    with pytest.raises(RunError, match=r"ledger\.json can't be read \(.*\); fix it, or move it away") as caught:
        ledger.record_upload(upload("one", 1, 0.5))
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "ledger.json").read_bytes() == content


def test_ledger_with_a_byte_order_mark_is_read(ledger, tmp_path):
    (tmp_path / "ledger.json").write_bytes(b"\xef\xbb\xbf[]")

    assert ledger.uploads() == []


@pytest.mark.parametrize("text", ["{", "[]", '{"members": 1}'])
def test_corrupted_run_does_not_hide_the_others(ledger, tmp_path, text):
    make_run(tmp_path, "good", 0.8)
    make_run(tmp_path, "bad")
    (tmp_path / "bad" / "metrics.json").write_text(text)

    assert {row.run: row.cv for row in ledger.rows()} == {"good": 0.8, "bad": None}


@pytest.mark.parametrize("text", ["{", "[]", '{"config": 1, "date": 2}'])
def test_corrupted_environment_does_not_hide_other_runs(ledger, tmp_path, text):
    make_run(tmp_path, "good", 0.8)
    make_run(tmp_path, "bad", 0.7)
    (tmp_path / "bad" / "environment.json").write_text(text)

    assert {row.run: row.cv for row in ledger.rows()} == {"good": 0.8, "bad": 0.7}


def test_parallel_uploads_are_all_recorded(ledger, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: Ledger(tmp_path).record_upload(upload("one", number, 0.5)), range(40)))

    assert sorted(each.ref for each in ledger.uploads()) == list(range(40))


def test_runs_are_sorted_and_filtered(ledger, tmp_path):
    make_run(tmp_path, "b-old", 0.7, "2026-01-01")
    make_run(tmp_path, "a-new", 0.6, "2026-02-01")
    make_run(tmp_path, "c-started", date="2026-03-01")
    rows = ledger.rows()

    assert [row.run for row in rows] == ["c-started", "a-new", "b-old"]
    assert [row.run for row in sorted_runs(rows, "cv", "")] == ["b-old", "a-new", "c-started"]
    assert [row.run for row in sorted_runs(rows, "run", "")] == ["a-new", "b-old", "c-started"]
    assert [row.run for row in sorted_runs(rows, "date", "NEW")] == ["a-new"]
    with pytest.raises(RunError, match="--sort nothing: expected one of run, config"):
        sorted_runs(rows, "nothing", "")


def test_runs_are_printed_as_csv_and_json(ledger, tmp_path, capsys):
    make_run(tmp_path, "one", 0.8)
    print_runs(ledger.rows(), as_csv=False, as_json=False)
    header, row = capsys.readouterr().out.splitlines()
    print_runs(ledger.rows(), as_csv=False, as_json=True)

    assert header == "run,config,members,folds,refits,cv,cv_low,cv_high,minutes,public,private,status,date"
    assert row.startswith("one,quick,net,2,0,0.8,")
    assert json.loads(capsys.readouterr().out)[0]["cv"] == 0.8


def test_each_run_is_read_once_however_many_uploads_there_are(ledger, tmp_path, monkeypatch):
    for number in range(20):
        make_run(tmp_path, f"run_{number}", 0.8)
    uploads = [vars(upload(f"run_{number % 20}", number, 0.5)) for number in range(100)]
    (tmp_path / "ledger.json").write_text(json.dumps(uploads))
    read: list[str] = []
    for method in ("read_text", "read_bytes"):
        load = getattr(Path, method)
        monkeypatch.setattr(
            Path, method, lambda path, *args, load=load, **kwargs: read.append(path.name) or load(path, *args, **kwargs)
        )
    rows = sorted_runs(ledger.rows(), "cv", "")

    assert len(rows) == 20
    assert Counter(read) == {"ledger.json": 1, "environment.json": 20, "metrics.json": 20}


def test_run_that_starts_from_pretrained_weights_is_marked(ledger, tmp_path):
    make_run(tmp_path, "one", 0.8)
    path = tmp_path / "one" / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pretrained": ["net"]}))

    assert [row.members for row in ledger.rows()] == ["net (pretrained)"]
