"""Where the kaggle client looks for credentials, their permissions, and their redaction from texts."""

import contextlib
import os
from pathlib import Path

from pipeline.progress import log

TOKEN_FILES = ("access_token", "access_token.txt")
MIN_SECRET_LENGTH = 16  # shorter words in these files are names and punctuation


def no_credentials() -> str:
    """Return an error that lists all ways to give credentials, and the files that were looked for."""
    looked_for = [str(folder / "kaggle.json") for folder in _folders()]
    looked_for += [str(Path.home() / ".kaggle" / name) for name in ("access_token", "credentials.json")]
    return (
        "there are no Kaggle credentials. Make a token on https://www.kaggle.com/settings and give it in one of these "
        "ways: the variable KAGGLE_API_TOKEN; the file ~/.kaggle/access_token; the variables KAGGLE_USERNAME and "
        "KAGGLE_KEY; the file ~/.kaggle/kaggle.json; `kaggle auth login`. Looked for: " + ", ".join(looked_for)
    )


def shadowing_token() -> str:
    """Return where the access token is that the client prefers to an API key, if there is one."""
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the variable KAGGLE_API_TOKEN"
    files = (Path.home() / ".kaggle" / name for name in TOKEN_FILES)
    return next((str(file) for file in files if file.exists()), "")


def warn_of_readable_credentials() -> None:
    """Log a warning for every file of credentials that other users of the machine can read."""
    for file in _files("kaggle.json", *TOKEN_FILES, "credentials.json"):
        if file.exists() and file.stat().st_mode & 0o077:
            log.warning("%s can be read by other users of this machine: chmod 600 %s", file, file)


def redacted(text: str) -> str:
    """Replace credentials in a text, where a server or a library may have put them, by ***."""
    secrets = [os.environ.get(name, "") for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN")]
    for file in _files("kaggle.json", *TOKEN_FILES):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            secrets += file.read_text(encoding="utf-8").replace('"', " ").split()
    for secret in secrets:
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, "***")
    return text


def _folders() -> list[Path]:
    home = Path.home()
    config_dir = os.environ.get("KAGGLE_CONFIG_DIR")
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    return [*([Path(config_dir)] if config_dir else []), home / ".kaggle", xdg]


def _files(*names: str) -> list[Path]:
    return [folder / name for folder in _folders() for name in names]
