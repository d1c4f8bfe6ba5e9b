"""The files in which the kaggle client looks for credentials, and their text, in whatever encoding it was saved."""

import codecs
import os
from pathlib import Path

from pipeline.error_messages import explain_cause

TOKEN_FILES = ("access_token", "access_token.txt")
API_KEY_FILE = "kaggle.json"
LOGIN_FILE = "credentials.json"
MAX_BYTES = 1 << 16  # a file of credentials has a few hundred
MAX_PATH = 300  # characters of a path that is shown
INVISIBLE = "\ufeff\u200b\u2060\0"  # byte order mark, zero-width space, word joiner
# The byte order mark of UTF-32 begins with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class CredentialError(Exception):
    """Credentials that can't be used; the message names file or variable and the remedy, and holds no secret."""


def home_folder() -> Path | None:
    """Return the user's home folder; None without one, as for a container's user without an entry in passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def api_key_folders() -> list[Path]:
    """Return the folders in which kaggle.json may be, in order of precedence."""
    home = home_folder()
    config_dir, xdg = os.environ.get("KAGGLE_CONFIG_DIR"), os.environ.get("XDG_CONFIG_HOME")
    folders = [Path(config_dir)] if config_dir else []
    folders += [home / ".kaggle"] if home else []
    if xdg:
        return [*folders, Path(xdg) / "kaggle"]
    return [*folders, home / ".config" / "kaggle"] if home else folders


def api_key_files() -> list[Path]:
    """Return the paths at which kaggle.json may be."""
    return [folder / API_KEY_FILE for folder in api_key_folders()]


def token_files() -> list[Path]:
    """Return the paths at which an access token may be, in order of precedence."""
    home = home_folder()
    return [home / ".kaggle" / name for name in TOKEN_FILES] if home else []


def login_files() -> list[Path]:
    """Return the path of what `kaggle auth login` saves, if there is a home folder."""
    home = home_folder()
    return [home / ".kaggle" / LOGIN_FILE] if home else []


def credential_files() -> list[Path]:
    """Return all paths at which credentials may be, also that in KAGGLE_API_TOKEN."""
    named = path_of_token(os.environ.get("KAGGLE_API_TOKEN", ""))
    return [*([named] if named else []), *token_files(), *api_key_files(), *login_files()]


def path_of_token(value: str) -> Path | None:
    """Return the path in KAGGLE_API_TOKEN, which may also hold the token itself; then None.

    Tokens have no slashes. Nobody expands `~` in `docker run --env`.
    """
    value = trim(value)
    is_path = value.startswith("~") or any(separator in value for separator in "/\\")
    if not is_path or value.startswith(("KGAT_", "{", '"', "'")):
        return None
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def read_credentials(path: Path) -> str | None:
    """Return the text of a file without its byte order mark and surrounding space; None if there is no file.

    Raises CredentialError if it can't be read, or is not text.
    """
    try:
        if path.is_dir():
            raise CredentialError(f"{path} is a folder, expected a file")
        if path.exists() and not path.is_file():  # reading a pipe would wait
            raise CredentialError(f"{path} is neither a file nor a folder, expected a file")
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        file = next((parent for parent in path.parents if parent.is_file()), path.parent)
        raise CredentialError(f"{file} is a file, expected a folder; rename it") from None
    except OSError as error:
        place = path if os.access(path.parent, os.X_OK) else path.parent
        raise CredentialError(f"{str(place)[:MAX_PATH]}: {explain_cause(error)}") from None
    if len(data) > MAX_BYTES:
        raise CredentialError(f"{path} has more than {MAX_BYTES:,} bytes, expected a short text")
    try:
        return trim(decode(data))
    except UnicodeDecodeError as error:
        byte = data[error.start : error.start + 1].hex()
        raise CredentialError(
            f"{path} is not text in UTF-8 (byte 0x{byte} at position {error.start}); save it again as UTF-8"
        ) from None


def trim(text: str) -> str:
    """Return a text without surrounding space and invisible characters."""
    return text.strip().strip(INVISIBLE).strip()


def decode(data: bytes) -> str:
    """Decode UTF-8, or what Windows calls Unicode: PowerShell's `>` writes UTF-16, Notepad a byte order mark.

    Raises UnicodeDecodeError.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding)
    if b"\0" in data[:2]:
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be")
    return data.decode("utf-8")
