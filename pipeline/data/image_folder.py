"""A folder of PNG files of one split -> their names, bytes, and what identifies them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.cores import threads_of_python
from pipeline.data.fingerprint import folder_fingerprint
from pipeline.data.paths import describe_path, is_clutter, list_names
from pipeline.data.prefetch import Put, prefetch
from pipeline.data.read_errors import read_errors
from pipeline.data.seven_zip_reader import MAX_MEMBER
from pipeline.errors import InputError

CHUNK_SIZE = 500  # files per read job

Content = tuple[str, bytes]
"""Name and bytes of a file."""


class ImageFolder:
    """One folder. Every error is an InputError that names the folder or the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the names of the PNG files. Other files are left out."""
        names, others = [], []
        with read_errors(self._path), os.scandir(self._path) as entries:
            for entry in entries:
                if not _is_image(entry.name):
                    others.append(entry.name)
                elif entry.is_file():
                    names.append(entry.name)
                else:
                    raise InputError(f"{entry.path} is not a file; extract it again")
        if not names:
            raise InputError(
                f"{self._path} contains no images: found {list_names(sorted(others))}, expected 1.png, 2.png, ...; "
                f"{self._remedy()}"
            )
        return names

    @contextmanager
    def read(self) -> Iterator[Iterator[Content]]:
        """Read ahead while the block runs, which gets name and bytes of each file, in any order."""
        names = self.names()
        chunks = [names[start : start + CHUNK_SIZE] for start in range(0, len(names), CHUNK_SIZE)]
        with prefetch([partial(self._read_files, chunk) for chunk in chunks], threads_of_python()) as pieces:
            yield chain.from_iterable(pieces)

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the PNG files; 100,000 take half a second."""
        with read_errors(self._path), os.scandir(self._path) as entries:
            return folder_fingerprint(
                self._path, ((entry.name, _status(entry)) for entry in entries if _is_image(entry.name))
            )

    def _remedy(self) -> str:
        inner = self._path / self._path.name  # an archive that was extracted into a folder of its name
        return f"move the files of {inner} up into {self._path}" if inner.is_dir() else "extract its archive again"

    def _read_files(self, names: list[str], put: Put[list[Content]]) -> None:
        files = []
        for name in names:
            path = self._path / name
            with read_errors(path), path.open("rb") as file:
                data = file.read(MAX_MEMBER + 1)
            if len(data) > MAX_MEMBER:
                raise InputError(f"{path} has more than {MAX_MEMBER:,} bytes, expected an image; extract it again")
            files.append((name, data))
        put(files)


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:
        raise InputError(f"{entry.path} {describe_path(Path(entry.path))}; extract it again") from None


def _is_image(name: str) -> bool:
    return name.endswith(".png") and not is_clutter(name)
