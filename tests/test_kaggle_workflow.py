"""The user's way from the download to the ledger, through run.py, against a server on 127.0.0.1."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from conftest import NUM_TEST, ROOT
from kaggle_server import Answer, KaggleServer

from pipeline.task import ZIP_NAME

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef0123456789abcdef"
CONFIG = """
members:
  net:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    train: {epochs: 1, batch_size: 32, optimizer: {lr: 0.02}}
folds: {num_folds: 2}
predict: {views: identity}
"""
# The drawn competition has fewer test images than Kaggle's, so the command line is told of another number.
RUN = f"""
import runpy, sys
import pipeline.task as facts
facts.NUM_TEST = {NUM_TEST}
sys.argv[0] = "run.py"
runpy.run_path({str(ROOT / "run.py")!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def world(zip_folder, tmp_path_factory):
    """A server, a home with a key, a folder to work in, and a way to call the command line."""
    folder = tmp_path_factory.mktemp("story")
    home = folder / "home"
    (home / ".kaggle").mkdir(parents=True)
    key = home / ".kaggle" / "kaggle.json"
    key.write_text(json.dumps({"username": "somebody", "key": KEY}))
    key.chmod(0o600)
    (folder / "tiny.yaml").write_text(CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept = {name: value for name, value in kept.items() if not name.startswith("KAGGLE_")}
    with KaggleServer((zip_folder / ZIP_NAME).read_bytes()).running() as server:
        environment = {
            **kept,
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": server.url,
        }

        def call(*words):
            command = [sys.executable, "-c", RUN, *map(str, words)]
            return subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
            )

        yield folder, server, call


def test_from_the_download_to_the_ledger(world):
    folder, server, call = world
    done = [call("download"), call("all", "--config", "tiny.yaml"), call("submit", "--run", "tiny", "--wait")]
    for each in done:
        assert each.returncode == 0, each.stderr + each.stdout
    accuracy = json.loads((folder / "submissions/tiny/metrics.json").read_text())["blend"]["accuracy"]
    sent = (folder / "submissions/tiny/submission.csv").read_bytes()
    shown = call("runs", "--csv")
    (row,) = csv.DictReader(io.StringIO(shown.stdout))

    assert (folder / "input" / ZIP_NAME).read_bytes() == server.zip_bytes
    assert list(server.uploads.values()) == [sent]
    assert server.submissions[0]["description"].startswith(f"tiny: tiny, CV {accuracy:.4f} (")
    told = f"submissions/tiny/submission.csv: complete, public 0.8100, private 0.8200, out of fold {accuracy:.4f}"
    assert f"submission 1000 of {told}" in done[2].stdout
    assert (row["run"], row["recipe"], row["members"], row["folds"]) == ("tiny", "tiny", "net", "2")
    assert float(row["cv"]) == pytest.approx(accuracy)
    assert (row["public"], row["private"], row["status"]) == ("0.81", "0.82", "complete")
    assert json.loads(call("runs", "--json", "--sort", "cv", "--filter", "tin").stdout)[0]["run"] == "tiny"
    assert "python run.py submit --run tiny" in done[1].stdout

    again = call("submit", "--run", "tiny")
    assert again.returncode == 1
    assert "was uploaded on" in again.stderr
    assert "--again uploads it once more" in again.stderr
    assert len(server.submissions) == 1


def test_a_file_that_kaggle_would_refuse_is_not_sent(world):
    folder, server, call = world
    (folder / "broken.csv").write_text("id,label\n1,cat\n1,cat\n")
    before = len(server.received)
    done = call("submit", "broken.csv")

    assert done.returncode == 1
    assert "broken.csv was not uploaded (checked against" in done.stderr
    assert len(server.received) == before


def test_a_late_score_is_fetched_by_the_ledger(world):
    folder, server, call = world
    rows = (folder / "submissions/tiny/submission.csv").read_text().splitlines()
    (folder / "other.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    server.polls_until_scored = 10**6
    late = call("submit", "other.csv", "--seconds", "1")
    server.polls_until_scored = 0
    refreshed = call("runs", "--refresh")

    assert late.returncode == 1
    assert "python run.py runs --refresh fetches the score later" in late.stderr
    assert "other.csv: complete, public 0.8100" in refreshed.stderr
    assert json.loads((folder / "submissions/ledger.json").read_text())[-1]["status"] == "complete"


def test_a_wrong_key_is_one_line_and_no_traceback(world):
    _, server, call = world
    server.faults["GetSubmissionLimits"] = [Answer(401, "Unauthorized")]
    done = call("submit", "other.csv", "--again")

    assert done.returncode == 1
    assert done.stderr.startswith("error: Kaggle refuses the credentials (401: Unauthorized)")
    assert "Traceback" not in done.stderr


def test_the_key_is_in_no_file_and_on_no_screen(world):
    folder, server, call = world
    said = call("runs", "--refresh")
    server.faults["GetSubmissionLimits"] = [Answer(403, f"{KEY} may not")]
    refused = call("submit", "other.csv", "--again")
    written = [path for path in folder.joinpath("submissions").rglob("*") if path.is_file()]

    assert refused.returncode == 1
    assert "*** may not" in refused.stderr
    assert len(written) > 5
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in said.stdout + said.stderr + refused.stdout + refused.stderr


def test_two_runs_are_compared(world):
    _, _, call = world
    words = ("--config", "tiny.yaml", "--run", "longer", "--set", "members.net.train.epochs=2")
    assert call("train", *words).returncode == 0
    done = call("runs", "diff", "tiny", "longer")

    assert done.returncode == 0, done.stderr
    assert "members.net.train.epochs: 1 -> 2" in done.stdout
    assert "McNemar's exact test p = " in done.stdout
