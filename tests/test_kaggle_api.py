"""The client runs in a process of its own; here a small program stands in for it."""

import shlex
import shutil
import sys

import pytest

from pipeline.competition import kaggle_api
from pipeline.competition.facts import ZIP_NAME
from pipeline.errors import InputError


def pretend(monkeypatch, code):
    monkeypatch.setattr(kaggle_api, "CLIENT", (sys.executable, "-c", f"import shutil, sys; {code}"))


def test_the_client_is_asked_for_the_competitions_zip(monkeypatch, tmp_path, zip_folder):
    pretend(monkeypatch, f"print(sys.argv[1:]); shutil.copy({str(zip_folder / ZIP_NAME)!r}, sys.argv[-1])")

    path = kaggle_api.download(tmp_path / "input")

    assert path == tmp_path / "input" / ZIP_NAME
    assert path.read_bytes() == (zip_folder / ZIP_NAME).read_bytes()


def test_what_is_there_and_whole_is_not_fetched_again(monkeypatch, tmp_path, zip_folder):
    shutil.copy(zip_folder / ZIP_NAME, tmp_path)
    pretend(monkeypatch, "sys.exit(3)")

    assert kaggle_api.download(tmp_path) == tmp_path / ZIP_NAME


@pytest.mark.parametrize(
    ("code", "status"),
    [("sys.exit(1)", 1), ("open(sys.argv[-1] + '/cifar-10.zip', 'w').write('<html>')", 0), ("pass", 0)],
    ids=["refused", "web page", "nothing"],
)
def test_a_download_that_fails_says_what_to_do(monkeypatch, tmp_path, code, status):
    pretend(monkeypatch, code)

    with pytest.raises(InputError, match=rf"did not bring .*status {status}.*API token.*cifar-10/rules"):
        kaggle_api.download(tmp_path)


def test_the_upload_line_survives_the_shell(tmp_path):
    line = kaggle_api.upload_command(tmp_path / "submission.csv", 'it\'s "quick"; rm -rf')

    assert shlex.split(line)[-1] == 'it\'s "quick"; rm -rf'
    assert shlex.split(line)[:5] == ["kaggle", "competitions", "submit", "-c", "cifar-10"]
