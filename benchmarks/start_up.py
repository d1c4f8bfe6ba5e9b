"""Seconds of the commands that compute nothing, on files of the demo's size, and of importing torch and timm."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from timing import ratio, time_alternately

RUN = Path(__file__).resolve().parents[1] / "run.py"
NUM_ROUNDS = 5
IMPORTS = "import torch, timm"
COMMANDS = (
    "--help",
    "runs",
    "check submissions/demo/submission.csv",
    "validate --run demo",
    "prepare --input input/synthetic-1",
    "submit missing.csv",
)


def call(folder: Path, *arguments: str) -> None:
    """Run Python in a folder, without its output; whether it fails does not matter."""
    # Without credentials, and without a network for those who have some.
    environment = {**os.environ, "KAGGLE_CONFIG_DIR": str(folder), "HTTPS_PROXY": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False)


def main() -> None:
    """Make a demo run, and print the seconds of each command."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        call(folder, str(RUN), "demo")
        assert (folder / "submissions" / "demo" / "submission.csv").is_file()
        functions: dict[str, Callable[[], object]] = {IMPORTS: partial(call, folder, "-c", IMPORTS)}
        functions |= {command: partial(call, folder, str(RUN), *command.split()) for command in COMMANDS}
        seconds = time_alternately(functions, NUM_ROUNDS)
    for name, times in seconds.items():
        low, high = min(times), max(times)
        compared = "" if name == IMPORTS else f"; of the imports' time {ratio(seconds, name, IMPORTS)}"
        print(f"{name}: {statistics.median(times):.2f} s ({low:.2f} to {high:.2f}){compared}")


if __name__ == "__main__":
    main()
