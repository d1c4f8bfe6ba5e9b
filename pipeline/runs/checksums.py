"""The SHA-256 of files, kept beside them in checksums.json: what was damaged or changed afterwards is noticed."""

import hashlib
import json
from pathlib import Path

from pipeline.files import write_json

NAME = "checksums.json"


class Checksums:
    """The checksums of a folder's files. A folder without the file (of an older version) is taken as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / NAME

    def keep(self, *names: str) -> None:
        """Keep the checksums of files as they are now."""
        write_json(self._path, self._kept() | {name: _sha256(self._folder / name) for name in names})

    def broken(self) -> list[str]:
        """Return the names of files that are gone or are not what they were."""
        return [name for name, kept in self._kept().items() if _sha256(self._folder / name) != kept]

    def _kept(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            return {NAME: "damaged"}
        return found if isinstance(found, dict) else {NAME: "damaged"}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"
