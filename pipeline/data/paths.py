"""Names and kinds of files, for what is read and for messages."""

import errno
import os
import stat
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from pipeline.data.read_errors import read_errors

MAX_SHOWN = 5  # names
MAX_ENTRIES, MAX_SUBFOLDERS, MAX_FOLDERS = 1000, 50, 500  # read in a folder, followed in a folder, followed in all
CLUTTER = {".ds_store", "thumbs.db", "desktop.ini"}
CLUTTER_FOLDER = "__MACOSX"


def is_clutter(name: str) -> bool:
    """Return whether a file or a path is one that macOS or Windows has added, such as ._1.png or Thumbs.db."""
    *folders, base = name.split("/")
    return base.startswith("._") or base.lower() in CLUTTER or CLUTTER_FOLDER in (*folders, base)


def list_names(names: Sequence[str]) -> str:
    """Return the first names."""
    more = ", ..." if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more if names else "nothing"


def visible_names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, without hidden files and those that macOS and Windows add."""
    with read_errors(folder):
        return sorted(name for name in os.listdir(folder) if not name.startswith(".") and not is_clutter(name))


def folders_below(root: Path, depth: int) -> list[Path]:
    """Return a folder and those in it, the higher ones first.

    Of large folders only a part, so that a data set of many files takes no time.
    """
    found, level = list[Path](), [root]
    for _ in range(depth + 1):
        found += level
        level = [folder for parent in level for folder in _subfolders(parent)][: MAX_FOLDERS - len(found)]
    return found


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES) if entry.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".") and not is_clutter(name)][
        :MAX_SUBFOLDERS
    ]


def describe_path(path: Path) -> str:
    """Return what a path is: a file, a folder, a link that leads nowhere, nothing."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a loop of symbolic links"
        if path.is_symlink():
            return f"is a link to {path.readlink()}, which does not exist"
        return "does not exist" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f"can't be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return "is a file" if stat.S_ISREG(mode) else "is neither a file nor a folder"


def is_file(path: Path) -> bool:
    """Return whether a path is a file. Raises InputError if that can't be found out."""
    with read_errors(path):
        return path.is_file()


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder. Raises InputError if that can't be found out."""
    with read_errors(path):
        return path.is_dir()


def exists(path: Path) -> bool:
    """Return whether anything is at a path, a link that leads nowhere too."""
    return os.path.lexists(path)
