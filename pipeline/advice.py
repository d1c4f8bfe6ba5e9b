"""Commands that error messages give."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path


def shell_command(words: Sequence[str]) -> str:
    """Return words as one command line, quoted for this platform's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def prepare_again(folder: Path) -> str:
    """Return the command that decodes the images of an input folder again."""
    return _with_input("python run.py prepare --again", folder)


def download_again(folder: Path) -> str:
    """Return the command that downloads Kaggle's zip again into an input folder, whatever is there already."""
    return _with_input("python run.py download --again", folder)


def for_run(command: str, run: str, folder: Path) -> str:
    """Return a command on a run with an input folder."""
    return _with_input(f"python run.py {command} --run {run}", folder)


def _with_input(command: str, folder: Path) -> str:
    return command if folder == Path("input") else f"{command} --input {shell_command([str(folder)])}"
