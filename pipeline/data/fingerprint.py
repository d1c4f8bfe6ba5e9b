"""What identifies files without reading them: name, size and modification time."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.data.read_errors import read_errors


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Return name, size in bytes and modification time of a file."""
    with read_errors(path):
        status = path.stat()
    return {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def folder_fingerprint(path: Path, files: Iterable[tuple[str, os.stat_result]]) -> dict[str, Any]:
    """Return a folder's name, the number of files, the newest time, and the CRC-32 of all names, sizes and times.

    Not the time of the folder, which is the same after a file in it is rewritten in place.
    """
    files = sorted(files)
    lines = "\n".join(f"{name},{status.st_size},{status.st_mtime_ns}" for name, status in files)
    return {
        "name": path.name,
        "size": len(files),
        "mtime_ns": max((status.st_mtime_ns for _, status in files), default=0),
        "checksum": f"{zlib.crc32(os.fsencode(lines)):08x}",
    }
