"""Whole jobs, each in a process of its own, as a user runs it; and commands on a finished run."""

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import CONFIG, NUM_TEST, NUM_TRAIN, ROOT
from faults.harness import restore_interrupts

from pipeline.ledger import Ledger
from pipeline.task import CIFAR10

pytestmark = pytest.mark.slow


def test_whole_job_leaves_a_complete_run(whole_run):
    folder, done = whole_run
    run = folder / "submissions" / "tiny"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} - {".lock", ".lock.pid"}
    slices = {name for name in files if "/test_logits/" in name}
    fold_files = ("checksums.json", "compute.json", "history.csv", "out_of_fold.npz", "weights.safetensors")
    rows = (run / "submission.csv").read_text().splitlines()
    metrics = json.loads((run / "metrics.json").read_text())

    assert slices
    assert files - slices == {
        *(
            "arrangement.json",
            "cascade.json",
            "checksums.json",
            "config.yaml",
            "ensemble.json",
            "environment.json",
            "folds.csv",
        ),
        *("input.json", "metrics.json", "report.html", "submission.csv", "test_predictions.npz", "times.json"),
        *(f"{name}/fold_{fold}/{file}" for name in ("net", "tutorial") for fold in range(3) for file in fold_files),
    }
    assert rows[0] == "id,label"
    assert [row.split(",")[0] for row in rows[1:]] == [str(number) for number in range(1, NUM_TEST + 1)]
    assert {row.split(",")[1] for row in rows[1:]} <= set(CIFAR10.class_names)
    assert metrics["ensemble"]["scores"]["num_images"] == NUM_TRAIN
    assert sum(metrics["ensemble"]["weights"].values()) == pytest.approx(1)
    assert "submission, checked: submissions/tiny/submission.csv" in done.stdout
    assert "not for upload: it has 60 rows, Kaggle expects one for each of 300,000 test images" in done.stdout


def test_out_of_fold_scores_are_those_of_the_validation_images(whole_run):
    folder, _ = whole_run
    run = folder / "submissions" / "tiny"
    table = np.loadtxt(run / "folds.csv", delimiter=",", skiprows=1, dtype=np.int64)
    metrics = json.loads((run / "metrics.json").read_text())
    for fold in range(3):
        with np.load(run / "net" / f"fold_{fold}" / "out_of_fold.npz") as predictions:
            validation = table[table[:, 2] == fold]
            assert np.array_equal(predictions["ids"], validation[:, 0])
            accuracy = (predictions["logits"].argmax(1) == validation[:, 1]).mean()
        assert metrics["members"]["net"]["folds"][str(fold)]["accuracy"] == pytest.approx(accuracy)


def kill_and_resume(folder, zip_folder, tmp_path, *options, killed_after="net fold 1: epoch 1/2"):
    """Kill a job like the finished one when it has logged an epoch; return its second process."""
    shutil.copy(folder / "tiny.yaml", tmp_path)
    command = [sys.executable, ROOT / "run.py", "all", "--config", "tiny.yaml", "--input", str(zip_folder), *options]
    with subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
        for line in process.stderr:
            if killed_after in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "submissions" / "tiny" / "submission.csv").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done


def assert_same_results(folder, other, at_least=14):
    compared = 0
    for path in folder.joinpath("submissions/tiny").rglob("*"):
        if path.name == "submission.csv" or path.suffix in (".safetensors", ".npz"):
            assert (other / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
            compared += 1
    assert compared > at_least  # submission, test predictions, files of the folds, slices


def test_job_killed_in_the_second_fold_resumes_to_the_same_bytes(whole_run, zip_folder, tmp_path):
    folder, _ = whole_run
    done = kill_and_resume(folder, zip_folder, tmp_path)

    assert "net fold 1: resumed after epoch 1" in done.stderr
    assert "net fold 0: epoch" not in done.stderr
    assert_same_results(folder, tmp_path)


@pytest.mark.heavy
def test_killed_job_of_two_processes_resumes_to_the_bytes_of_one_process(whole_run, zip_folder, tmp_path):
    folder, _ = whole_run
    threads = json.loads((folder / "submissions" / "tiny" / "arrangement.json").read_text())["prediction"]
    options = ("--set", "machine.jobs=2", "--set", f"machine.threads_per_job={threads}")
    kill_and_resume(folder, zip_folder, tmp_path, *options)

    assert_same_results(folder, tmp_path)


@pytest.mark.heavy
def test_refits_predict_the_test_images_and_a_killed_one_resumes_to_the_same_bytes(run_py, zip_folder, tmp_path):
    folder, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for each in (folder, killed):
        each.mkdir()
    one_member = yaml.safe_load(CONFIG)
    del one_member["members"]["tutorial"]
    refit = {"folds": {"num_folds": 4, "train": [1]}, "refit": {"models": 2}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(one_member | refit))
    done = run_py("all", "--config", "tiny.yaml", "--input", zip_folder, cwd=folder)
    kill_and_resume(folder, zip_folder, killed, killed_after="net refit 1: epoch 1/2")
    run = folder / "submissions" / "tiny"
    metrics = json.loads((run / "metrics.json").read_text())
    (row,) = Ledger(folder / "submissions").rows()

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (run / "net").iterdir()) == ["fold_1", "refit_0", "refit_1"]
    assert (run / "net" / "refit_0" / "weights.safetensors").read_bytes() != (
        run / "net" / "refit_1" / "weights.safetensors"
    ).read_bytes()
    assert json.loads((run / "cascade.json").read_text())["agreement"]["models"] == ["net refit 0", "net refit 1"]
    assert metrics["ensemble"]["scores"]["num_images"] == NUM_TRAIN / 4
    assert "net: 1 fold and 2 refits trained" in done.stdout
    assert "averages 2 models trained on all training images" in (run / "report.html").read_text()
    assert (row.folds, row.refits) == (1, 2)
    assert_same_results(folder, killed, at_least=2 + 3 * 2)


def test_finished_run_can_be_checked_and_validated(whole_run, run_py):
    folder, _ = whole_run
    (submission,) = folder.glob("submissions/tiny/submission.csv")
    modified = submission.stat().st_mtime_ns
    checked = run_py("check", submission.relative_to(folder), cwd=folder)
    validated = run_py("validate", "--run", "tiny", cwd=folder)

    assert checked.returncode == validated.returncode == 0
    assert "valid (checked against the test images of the run tiny, 60)" in checked.stdout
    assert re.search(
        r"ensemble out of fold: accuracy 0\.\d{4} \(95 % CI .*\(net: weight [\d.]+, temperature [\d.]+; tutorial: .*\)",
        validated.stdout,
    )
    assert validated.stdout.count("airplane") == 2
    assert submission.stat().st_mtime_ns == modified


def test_reports_are_written_again_by_their_command(whole_run, zip_folder, cli, monkeypatch):
    folder, _ = whole_run
    path = folder / "submissions" / "tiny" / "report.html"
    before = path.read_text()
    path.unlink()
    monkeypatch.chdir(folder)
    one, overview = cli("report", "--run", "tiny", "--input", zip_folder), cli("report", "--all")

    assert one.stdout == "submissions/tiny/report.html\n", one.stderr
    assert path.read_text() == before
    assert overview.stdout == "submissions/index.html\n", overview.stderr
    assert 'href="tiny/report.html"' in (folder / "submissions" / "index.html").read_text()


def test_report_without_all_folds_or_on_other_images_is_rejected(whole_run, cli, tmp_path, batches_folder):
    folder, _ = whole_run
    shutil.copytree(folder / "submissions" / "tiny", tmp_path / "submissions" / "tiny")
    other = cli("report", "--run", "tiny", "--input", batches_folder.parent)
    (tmp_path / "submissions" / "tiny" / "net" / "fold_2" / "out_of_fold.npz").unlink()
    early = cli("report", "--run", "tiny", "--input", batches_folder.parent)

    assert (other.status, early.status) == (1, 1)
    assert "the run tiny was started on other input" in other.stderr
    assert "not trained yet: net fold 2" in early.stderr


def test_quiet_prints_only_the_results(whole_run, zip_folder, cli, monkeypatch):
    folder, _ = whole_run
    monkeypatch.chdir(folder)
    before, after = (
        cli(*words, "--run", "tiny", "--input", zip_folder)
        for words in (("--quiet", "predict"), ("predict", "--quiet"))
    )

    assert before.status == after.status == 0
    assert before.stderr == after.stderr == ""
    assert before.stdout == after.stdout
    assert "submission, checked: submissions/tiny/submission.csv" in after.stdout


def test_changed_config_for_the_same_run_is_rejected(whole_run, zip_folder, cli, monkeypatch):
    folder, _ = whole_run
    monkeypatch.chdir(folder)
    done = cli("train", "--run", "tiny", "--input", zip_folder, "--set", "members.net.train.epochs=9")

    assert done.status == 1
    assert done.stderr.count("\n") <= 4
    assert "was started with another config" in done.stderr
    assert "members.net.train.epochs: 2 -> 9" in done.stderr


def test_interrupted_command_prints_how_to_resume(whole_run, zip_folder, tmp_path):
    folder, _ = whole_run
    shutil.copy(folder / "tiny.yaml", tmp_path)
    command = [sys.executable, ROOT / "run.py", "train", "--config", "tiny.yaml", "--input", str(zip_folder)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=-1, stderr=-1, text=True, preexec_fn=restore_interrupts
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "net fold 0: epoch 1/2" in line:
                process.send_signal(signal.SIGINT)

    assert process.returncode == 130
    assert lines[-1] == "interrupted; progress saved, rerun the same command to resume\n"
    assert "Traceback" not in "".join(lines)


def test_torchvisions_dataset_has_a_test_accuracy(run_py, tmp_path, batches_folder):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    done = run_py("all", "--config", "tiny.yaml", "--input", batches_folder.parent)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^scored test images: accuracy 0\.\d{4} \(95 % CI .*n = 20$", done.stdout, re.MULTILINE), (
        done.stdout
    )


def test_user_error_ends_the_process_with_status_1_and_no_traceback(run_py, tmp_path):
    done = run_py("all")

    assert done.returncode == 1
    assert done.stderr.startswith("error: input does not exist.")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
