"""The commands in this process: what they print, and how they end."""

import shutil
import sys
from types import SimpleNamespace

import pytest
from conftest import NUM_TRAIN

from pipeline.cli import main
from pipeline.task import TRAIN_LABELS_CSV


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Give a command in an empty folder; return its status, stdout and stderr."""

    def call(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(status=ended.value.code or 0, stdout=captured.out, stderr=captured.err)

    return call


@pytest.mark.parametrize("command", ["", "all", "demo", "download", "prepare", "train", "validate", "predict", "check"])
def test_every_command_and_flag_has_a_help_text(cli, command):
    done = cli(*command.split(), "--help")
    flags = [line for line in done.stdout.splitlines() if line.strip().startswith(("--", "-h"))]

    assert done.status == 0
    assert flags
    assert all(len(line.split(None, 2)) == 3 for line in flags)


def test_a_wrong_flag_is_told(cli):
    done = cli("all", "--configuration", "x.yaml")

    assert done.status == 2
    assert "No such option: --configuration" in done.stderr


def test_prepare_prints_where_the_images_are(cli, tmp_path, zip_folder):
    shutil.copytree(zip_folder, tmp_path / "input")
    done = cli("prepare")

    assert done.status == 0
    assert done.stdout == f"train: {NUM_TRAIN} images in input/.cache/train\ntest: 60 images in input/.cache/test\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["all"], "error: input does not exist.\nWays to get it:\n  python run.py download"),
        (["all", "--config", "nothing.yaml"], "error: there is no recipe nothing.yaml"),
        (["all", "--set", "folds.numfolds=3"], "unknown key 'folds.numfolds'; did you mean 'num_folds'?"),
        (["validate", "--run", "nothing"], "error: there is no run nothing in submissions"),
        (["check", "nothing.csv"], "error: nothing.csv can't be read: No such file or directory"),
        (["train", "--fold", "7", "--input", "nowhere"], "error: --fold 7: the recipe has the folds 0 to 2"),
        (["all", "--run", "a/b"], "error: --run 'a/b': a run's name"),
    ],
    ids=["no input", "no recipe", "typo", "no run", "no file", "no fold", "run name"],
)
def test_a_users_fault_is_one_clear_text_and_status_1(cli, tmp_path, words, message):
    done = cli(*words)

    assert done.status == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_id_without_image_and_the_reverse_are_named(archives_folder, tmp_path, cli):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    labels = (folder / TRAIN_LABELS_CSV).read_text()
    lines = labels.splitlines(keepends=True)
    (folder / TRAIN_LABELS_CSV).write_text("".join([*lines, "999,cat\n"]))
    more = cli("all")
    (folder / TRAIN_LABELS_CSV).write_text("".join(lines[:-1]))
    fewer = cli("all")

    assert more.status == fewer.status == 1
    assert "the training id 999 has a label and no image (1 such ids)" in more.stderr
    assert f"the training id {NUM_TRAIN} has an image and no label (1 such ids)" in fewer.stderr


def test_without_input_a_file_is_checked_against_kaggles_own_ids(cli, tmp_path):
    rows = "".join(f"{number},cat\n" for number in range(1, 300_001))
    (tmp_path / "good.csv").write_text("id,label\n" + rows)
    (tmp_path / "bad.csv").write_text("id,label\n" + rows.replace("271828,cat\n", ""))
    good, bad = cli("check", "good.csv"), cli("check", "bad.csv")

    assert good.status == 0
    assert good.stdout == (
        "good.csv: good to upload (checked against Kaggle's test images, as there is no input, 300,000)\n"
    )
    assert bad.status == 1
    assert "it has 299,999 rows, expected 300,000" in bad.stderr
    assert "missing ids: 271828" in bad.stderr
