"""Another image competition, defined by its Task alone: the whole job without a change in pipeline/."""

import csv
import sys
import zipfile

import pytest

from pipeline.cli import main
from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.task import Task

NUM_TRAIN, NUM_TEST = 100, 80
FIVE_SHAPES = Task(
    competition="five-shapes",
    class_names=("kite", "wagon", "finch", "lynx", "elk"),
    image_shape=(48, 48, 3),
    mean=(0.45, 0.47, 0.44),
    std=(0.22, 0.22, 0.23),
    num_test=NUM_TEST,
    num_scored_test=NUM_TEST,
    zip_name="five-shapes.zip",
    train_labels_csv="targets.csv",
    sample_submission_csv="example.csv",
    train_archive="learning.7z",
    test_archive="scoring.7z",
    id_column="image",
    label_column="target",
)
CONFIG = """
members:
  airbench:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    augment:
      - {name: Pad, params: {padding: 2, border_mode: reflect, p: 1.0}}
      - {name: RandomCrop, params: {height: 48, width: 48, p: 1.0}}
    train:
      epochs: 2
      batch_size: 16
      progressive_resizing: [{until: 0.5, size: 40}]
      optimizer: {muon: {lr: 0.1}}
  tutorial:
    model: {name: tutorial_cnn}
    train: {epochs: 1, batch_size: 16, optimizer: {lr: 0.02}}
folds: {num_folds: 2}
predict: {tta: flip_translate, cascade: {calibration_size: 12, max_accuracy_drop: 0.3}}
machine: {jobs: 1, threads_per_job: 1}
"""


@pytest.fixture
def run_command(tmp_path, monkeypatch, capsys):
    """Run a command for the other task, as a run.py of its own would; return what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    make_synthetic_dataset(tmp_path / "input", num_train=NUM_TRAIN, num_test=NUM_TEST, task=FIVE_SHAPES)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main(FIVE_SHAPES)
        printed = capsys.readouterr()
        assert not exit_.value.code, printed.err
        return printed.out

    return run


@pytest.mark.slow
def test_whole_job_on_another_task_ends_with_a_checked_submission(run_command, tmp_path):
    printed = run_command("all", "--config", "tiny.yaml")
    submission = tmp_path / "submissions" / "tiny" / "submission.csv"
    checked = run_command("check", str(submission.relative_to(tmp_path)))
    with submission.open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert zipfile.ZipFile(tmp_path / "input" / "five-shapes.zip").namelist() == [
        "example.csv",
        "targets.csv",
        "scoring.7z",
        "learning.7z",
    ]
    assert list(rows[0]) == ["image", "target"]
    assert [row["image"] for row in rows] == [str(number) for number in range(1, NUM_TEST + 1)]
    assert {row["target"] for row in rows} <= set(FIVE_SHAPES.class_names)
    assert "n = 100" in printed
    assert "kaggle competitions submit -c five-shapes" in printed
    assert checked.startswith("submissions/tiny/submission.csv: valid (checked against the test images of the run tiny")
    report = (submission.parent / "report.html").read_text()
    assert all(name in report for name in FIVE_SHAPES.class_names)
    assert "airplane" not in report
