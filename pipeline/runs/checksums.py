"""SHA-256 checksums of files in checksums.json beside them: detects corruption and later edits."""

import hashlib
import json
from pathlib import Path

from pipeline.files import write_json

CHECKSUMS_JSON = "checksums.json"


class Checksums:
    """The checksums of a folder's files. Without checksums.json nothing is checked."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / CHECKSUMS_JSON

    def record(self, *names: str) -> None:
        """Record the current checksums of some files."""
        write_json(self._path, self._recorded() | {name: _sha256(self._folder / name) for name in names})

    def corrupted(self) -> list[str]:
        """Return the names of files that are missing or differ from their checksum."""
        return [name for name, sha256 in self._recorded().items() if _sha256(self._folder / name) != sha256]

    def _recorded(self) -> dict[str, str]:
        try:
            recorded = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            return {CHECKSUMS_JSON: "corrupted"}
        return recorded if isinstance(recorded, dict) else {CHECKSUMS_JSON: "corrupted"}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"
