"""All commands from the download to the ledger, against a server on 127.0.0.1."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import NUM_TEST
from kaggle_server import KEY, KaggleServer, Response, process_environment

from pipeline.task import CIFAR10

pytestmark = pytest.mark.slow

CONFIG = """
members:
  net:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    train: {epochs: 1, batch_size: 32, optimizer: {lr: 0.02}}
folds: {num_folds: 2}
predict: {tta: none}
"""
# The synthetic dataset has fewer test images than Kaggle's, so the task expects fewer rows.
COMMAND = f"""
import sys
from dataclasses import replace
from pipeline.cli import main
from pipeline.task import CIFAR10
sys.argv[0] = "run.py"
main(replace(CIFAR10, num_test={NUM_TEST}))
"""


@pytest.fixture(scope="module")
def setup(zip_folder, tmp_path_factory):
    """Start a server, download from it, and run the whole job.

    Yield a working folder with the run `tiny` and another submission, other.csv; the server; and a function that runs a
    command with a home and a key.
    """
    folder = tmp_path_factory.mktemp("kaggle")
    (folder / "tiny.yaml").write_text(CONFIG)
    with KaggleServer((zip_folder / CIFAR10.zip_name).read_bytes()).running() as server:
        environment = process_environment(server, folder)

        def run(*arguments, **variables):
            command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
            return subprocess.run(
                command,
                cwd=folder,
                env=environment | variables,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )

        for words in (("download",), ("all", "--config", "tiny.yaml")):
            done = run(*words)
            assert done.returncode == 0, done.stderr + done.stdout
        assert "python run.py submit --run tiny" in done.stdout
        write_rotated(folder, "other.csv", 2)
        yield folder, server, run


def write_rotated(folder, name, number):
    """Write the run's submission with its first rows at the end: a valid one with a checksum of its own."""
    rows = (folder / "submissions/tiny/submission.csv").read_text().splitlines()
    (folder / name).write_text("\n".join([rows[0], *rows[1 + number :], *rows[1 : 1 + number]]) + "\n")


def test_download_run_submit_and_ledger(setup):
    folder, server, run = setup
    before = len(server.submissions)
    done = run("submit", "--run", "tiny", "--wait")
    accuracy = json.loads((folder / "submissions/tiny/metrics.json").read_text())["ensemble"]["scores"]["accuracy"]
    submission = (folder / "submissions/tiny/submission.csv").read_bytes()
    table = run("runs", "--csv")
    (row,) = csv.DictReader(io.StringIO(table.stdout))

    assert (folder / "input" / CIFAR10.zip_name).read_bytes() == server.zip_bytes
    assert done.returncode == 0, done.stderr
    assert len(server.submissions) == before + 1
    assert list(server.uploads.values())[-1] == submission
    assert server.submissions[-1]["description"].startswith(f"tiny: tiny, CV {accuracy:.4f} (")
    result = f"submissions/tiny/submission.csv: complete, public 0.8100, private 0.8200, out of fold {accuracy:.4f}"
    assert f"submission {1000 + before} of {result}" in done.stdout
    assert (row["run"], row["config"], row["members"], row["folds"]) == ("tiny", "tiny", "net", "2")
    assert float(row["cv"]) == pytest.approx(accuracy)
    assert (row["public"], row["private"], row["status"]) == ("0.81", "0.82", "complete")
    assert json.loads(run("runs", "--json", "--sort", "cv", "--filter", "tin").stdout)[0]["run"] == "tiny"

    again = run("submit", "--run", "tiny")
    assert again.returncode == 1
    assert "was uploaded on" in again.stderr
    assert "--again uploads it once more" in again.stderr
    assert len(server.submissions) == before + 1


def test_invalid_file_is_not_uploaded(setup):
    folder, server, run = setup
    (folder / "invalid.csv").write_text("id,label\n1,cat\n1,cat\n")
    before = len(server.received)
    done = run("submit", "invalid.csv")

    assert done.returncode == 1
    assert "invalid.csv was not uploaded (checked against" in done.stderr
    assert len(server.received) == before


def test_late_score_is_fetched_by_runs_refresh(setup):
    folder, server, run = setup
    write_rotated(folder, "late.csv", 3)
    server.polls_until_scored = 10**6
    late = run("submit", "late.csv", "--seconds", "1")
    server.polls_until_scored = 0
    refreshed = run("runs", "--refresh")

    assert late.returncode == 1
    assert "python run.py runs --refresh fetches the score later" in late.stderr
    assert "late.csv: complete, public 0.8100" in refreshed.stderr
    assert json.loads((folder / "submissions/ledger.json").read_text())[-1]["status"] == "complete"


def test_two_commands_at_once_upload_a_file_once(setup):
    folder, server, run = setup
    write_rotated(folder, "twice.csv", 4)
    before = len(server.submissions)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: run("submit", "twice.csv", "--no-wait"), range(2)))
    ref = 1000 + before

    assert [each.returncode for each in done] == [0, 0], done
    assert len(server.submissions) == before + 1
    assert all(f"submission {ref} of twice.csv" in each.stdout for each in done)
    assert json.loads((folder / "submissions/ledger.json").read_text())[-1]["ref"] == ref


def test_corrupted_zip_is_downloaded_again(setup):
    folder, server, run = setup
    path = folder / "input" / CIFAR10.zip_name
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(CIFAR10.train_archive)
    with path.open("r+b") as file:
        file.seek(member.header_offset + 100 + member.compress_size // 2)
        file.write(b"corrupted")
    done = run("download")

    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == server.zip_bytes
    assert run("download").stderr == ""
    assert run("download", "--again").returncode == 0


def test_submission_of_a_run_that_lost_a_fold_is_uploaded(setup):
    folder, server, run = setup
    shutil.copytree(folder / "submissions/tiny", folder / "submissions/lost")
    (folder / "submissions/lost/net/fold_1/out_of_fold.npz").unlink()
    assert run("validate", "--run", "lost").returncode == 0
    done = run("submit", "--run", "lost", "--again")

    assert done.returncode == 0, done.stderr
    assert server.submissions[-1]["description"].startswith("lost: tiny [sha256:")
    assert "submission.csv: complete, public 0.8100" in done.stdout


def test_run_whose_folder_is_a_link_is_checked_by_the_name_of_the_link(setup):
    folder, _, run = setup
    (folder / "submissions/linked").symlink_to(folder / "submissions/tiny")
    done = run("check", "submissions/linked/submission.csv")

    assert done.returncode == 0, done.stderr
    assert "the run linked" in done.stdout


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (f"KGAT_{KEY}\nKGAT_{KEY}", "error: the variable KAGGLE_API_TOKEN has a line end in its middle"),
        (f"KGAT_\u20ac{KEY}", "error: the variable KAGGLE_API_TOKEN has a character that is not printable ASCII"),
    ],
)
def test_unusable_token_is_an_error_of_one_line_that_does_not_show_it(setup, token, message):
    _, _, run = setup
    done = run("submit", "other.csv", "--again", KAGGLE_API_TOKEN=token)

    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert KEY not in done.stdout + done.stderr


def test_file_that_changes_while_it_is_uploaded_is_uploaded_as_it_was_checked(setup, monkeypatch):
    folder, server, run = setup
    path, respond = folder / "changing.csv", server.respond
    write_rotated(folder, path.name, 5)
    checked = path.read_bytes()

    def change(name, body):
        path.write_text("id,label\n1,cat\n")
        return respond(name, body)

    monkeypatch.setattr(server, "respond", change)
    done = run("submit", "changing.csv")

    assert done.returncode == 0, done.stderr
    assert path.read_bytes() != checked
    assert list(server.uploads.values())[-1] == checked


def test_pipe_is_rejected_before_anything_is_recorded(setup):
    folder, _, run = setup
    os.mkfifo(folder / "pipe")
    ledger = folder / "submissions/ledger.json"
    before = ledger.read_bytes() if ledger.exists() else None
    done = run("submit", "pipe")

    assert done.returncode == 1
    assert done.stderr.startswith("error: pipe is not a regular file, expected a submission that can be read twice")
    assert (ledger.read_bytes() if ledger.exists() else None) == before


def test_wrong_key_is_an_error_without_a_traceback(setup):
    _, server, run = setup
    server.faults["GetSubmissionLimits"] = [Response(401, "Unauthorized")]
    done = run("submit", "other.csv", "--again")

    assert done.returncode == 1
    assert done.stderr.startswith("error: Kaggle rejected the credentials (401: Unauthorized)")
    assert "Traceback" not in done.stderr


def test_key_is_neither_saved_nor_printed(setup):
    folder, server, run = setup
    refreshed = run("runs", "--refresh")
    server.faults["GetSubmissionLimits"] = [Response(403, f"{KEY} may not")]
    rejected = run("submit", "other.csv", "--again")
    files = [path for path in folder.joinpath("submissions").rglob("*") if path.is_file()]

    assert rejected.returncode == 1
    assert "*** may not" in rejected.stderr
    assert len(files) > 5
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in refreshed.stdout + refreshed.stderr + rejected.stdout + rejected.stderr


def test_runs_diff_compares_two_runs(setup):
    _, _, run = setup
    arguments = ("--config", "tiny.yaml", "--run", "longer", "--set", "members.net.train.epochs=2")
    assert run("train", *arguments).returncode == 0
    done = run("runs", "diff", "tiny", "longer")

    assert done.returncode == 0, done.stderr
    assert "members.net.train.epochs: 1 -> 2" in done.stdout
    assert "McNemar's exact test p = " in done.stdout
