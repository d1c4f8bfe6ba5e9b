"""The only file that knows the kaggle client: download, and the command that uploads."""

import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

from pipeline.competition.facts import COMPETITION, ZIP_NAME
from pipeline.errors import InputError

# In a process of its own: importing kaggle authenticates, prints, and may end the process.
CLIENT = (sys.executable, "-c", "import sys; from kaggle.cli import main; sys.exit(main())")
RULES = f"https://www.kaggle.com/c/{COMPETITION}/rules"


def download(folder: Path) -> Path:
    """Fetch Kaggle's cifar-10.zip with the client and see that it is a whole zip. Raises InputError."""
    path = folder / ZIP_NAME
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and zipfile.is_zipfile(path):
        return path
    done = subprocess.run([*CLIENT, "competitions", "download", "-c", COMPETITION, "-p", str(folder)], check=False)
    if done.returncode != 0 or not zipfile.is_zipfile(path):
        raise InputError(
            f"the kaggle client did not bring {path} (it ended with status {done.returncode}; its own words stand "
            f"above). Put an API token into ~/.kaggle (kaggle.com/settings), accept the rules on {RULES}, try again"
        )
    return path


def upload_command(submission: Path, message: str) -> str:
    """Return the line that uploads a submission with the client."""
    return shlex.join(["kaggle", "competitions", "submit", "-c", COMPETITION, "-f", str(submission), "-m", message])
