"""Atomic writes: a reader sees the old file or the complete new one."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import RunError


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary file, fsync, rename. Raises RunError for a write error, such as a full disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} can't be written: {error.strerror or error}. An existing file is unchanged; "
            "free some space or choose another folder, then rerun the same command"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
