"""Writing files so that a reader sees the old one or the whole new one, never a part."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import RunError


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the path, push to disk, then take its name. Raises RunError when the disk is full or read-only."""
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
            f"{path} can't be written: {error.strerror or error}. What stood there before is untouched; "
            "make room or choose another folder, then give the same command again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
