"""Commands in messages can be pasted into a shell."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import advice
from pipeline.advice import download_again, shell_command


def test_download_again_names_a_folder_other_than_the_default():
    assert download_again(Path("input")) == "python run.py download --again"
    assert download_again(Path("other")) == "python run.py download --again --input other"


@pytest.mark.parametrize("folder", ["a b", "it's", "x; rm -rf y", "$HOME"])
def test_command_is_quoted_for_the_shell(folder):
    assert shlex.split(download_again(Path(folder)))[-1] == folder


def test_command_is_quoted_for_windows(monkeypatch):
    monkeypatch.setattr(advice, "os", SimpleNamespace(name="nt"))

    assert (
        shell_command(["kaggle", "-f", r"C:\my runs\x.csv", "-m", "it's"])
        == r"""kaggle -f "C:\my runs\x.csv" -m it's"""
    )
