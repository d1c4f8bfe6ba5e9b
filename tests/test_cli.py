"""The commands in this process: what they print, and how they end."""

import shutil

import pytest
from conftest import NUM_TRAIN

from pipeline.errors import RunError
from pipeline.task import CIFAR10

RUN_COMMANDS = ("all", "train", "predict", "demo")


def help_texts(text):
    """Return the help text of each option, by its last flag, from the output of --help."""
    texts, option = {}, None
    for line in text.partition("Options:\n")[2].splitlines():
        if line.startswith("  -"):
            declaration, _, first = line.strip().partition("  ")
            option = [word for word in declaration.split() if word.startswith("-")][-1]
            texts[option] = first.strip()
        elif line.startswith("    ") and option:
            texts[option] = f"{texts[option]} {line.strip()}".strip()
        else:
            option = None
    return {name: " ".join(text.split()) for name, text in texts.items()}


@pytest.mark.parametrize(
    "command",
    [
        *("", "all", "demo", "download", "prepare", "train", "validate", "predict", "report", "check", "submit"),
        *("runs", "tune", "export", "classify"),
    ],
)
def test_every_command_and_option_has_a_help_text(cli, command):
    done = cli(*command.split(), "--help")
    options = help_texts(done.stdout)

    assert done.status == 0
    assert options
    assert all(options.values())


def test_commands_on_a_run_share_their_options_and_help_texts(cli):
    texts = {command: help_texts(cli(command, "--help").stdout) for command in (*RUN_COMMANDS, "tune")}
    shared = texts["all"]

    assert list(shared) == [
        "--config", "--input", "--run", "--set", "--executor", "--address", "--quiet", "--help",
    ]  # fmt: skip
    for command in texts:
        assert {option: text for option, text in texts[command].items() if option in shared} == shared, command
    assert texts["train"].keys() - shared.keys() == {"--fold"}
    assert texts["tune"].keys() - shared.keys() == {
        "--space", "--trials", "--minutes", "--fold", "--member", "--objective", "--pruner",
    }  # fmt: skip
    assert texts["predict"].keys() == texts["demo"].keys() == shared.keys()


def test_unknown_option_is_rejected(cli):
    done = cli("all", "--configuration", "x.yaml")

    assert done.status == 2
    assert "No such option: --configuration" in done.stderr


def test_prepare_prints_the_folders_of_the_images(cli, tmp_path, zip_folder):
    shutil.copytree(zip_folder, tmp_path / "input")
    done = cli("prepare")

    assert done.status == 0
    assert done.stdout == f"train: {NUM_TRAIN} images in input/.cache/train\ntest: 60 images in input/.cache/test\n"
    assert f"train images: {NUM_TRAIN}, source input/cifar-10.zip" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["prepare", "--quiet"], ["prepare", "-q"], ["--quiet", "prepare"], ["-q", "prepare"]],
    ids=" ".join,
)
def test_quiet_is_accepted_before_and_after_the_command(cli, tmp_path, zip_folder, arguments):
    shutil.copytree(zip_folder, tmp_path / "input")
    done = cli(*arguments)

    assert done.status == 0
    assert done.stdout == f"train: {NUM_TRAIN} images in input/.cache/train\ntest: 60 images in input/.cache/test\n"
    assert done.stderr == ""


@pytest.mark.parametrize("command", RUN_COMMANDS)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_quiet_reaches_the_job_of_a_command(cli, monkeypatch, command, before):
    """Before or after the command, and before the job starts."""
    levels = []

    def record(*_, **__):
        from pipeline.progress import log

        levels.append(log.level)
        raise RunError("enough")

    monkeypatch.setattr("pipeline.run_context.open_context", record)
    monkeypatch.setattr("pipeline.run_context.open_demo", record)
    done = cli(*(["--quiet", command] if before else [command, "--quiet"]))
    loud = cli(command)

    assert (done.status, loud.status) == (1, 1)
    assert done.stderr == loud.stderr == "error: enough\n"
    assert levels == [30, 20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all"], "error: input does not exist.\nWays to get it:\n  python run.py download"),
        (["all", "--config", "nothing.yaml"], "error: config nothing.yaml does not exist"),
        (["all", "--set", "folds.numfolds=3"], "unknown key 'folds.numfolds'; did you mean 'num_folds'?"),
        (["validate", "--run", "nothing"], "error: there is no run nothing in submissions"),
        (["check", "nothing.csv"], "error: nothing.csv can't be read: does not exist"),
        (
            ["train", "--fold", "7", "--input", "nowhere"],
            "error: --fold 7: expected one of the folds that the config trains: 0\n",
        ),
        (["submit", "x.csv", "--run", "mine"], "error: both the file x.csv and --run mine are given, expected one"),
        (["all", "--input", "~no_such_user/x"], "error: ~no_such_user/x: "),
        (["all", "--run", "a/b"], "error: --run 'a/b': expected 1 to 64 of the characters"),
        (["all", "--address", "auto"], "error: --address is that of a Ray cluster; it requires --executor ray"),
    ],
    ids=["no input", "no config", "typo", "no run", "no file", "no fold", "two files", "no user", "run name", "no ray"],
)
def test_user_error_is_one_clear_text_and_status_1(cli, tmp_path, arguments, message):
    done = cli(*arguments)

    assert done.status == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ids_without_image_or_label_are_named(archives_folder, tmp_path, cli):
    folder = shutil.copytree(archives_folder, tmp_path / "input")
    path = folder / CIFAR10.train_labels_csv
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, "999,cat\n"]))
    more = cli("all")
    path.write_text("".join(lines[:-1]))
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
    assert good.stdout == ("good.csv: valid (checked against Kaggle's test images, as there is no input, 300,000)\n")
    assert bad.status == 1
    assert "it has 299,999 rows, expected 300,000" in bad.stderr
    assert "missing ids: 271828" in bad.stderr
