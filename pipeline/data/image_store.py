"""A folder with the decoded images of one split: a memory-mapped uint8 array, its ids, and a checksum of both."""

import errno
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.files import write_json
from pipeline.progress import log
from pipeline.task import Ids

IDS, IMAGES, MANIFEST = FILES = ("ids.npy", "images.npy", "manifest.json")
READ_SIZE = 1 << 24  # bytes


@dataclass(frozen=True)
class ImageStore:
    """The images of a split: ids [N], ascending, and images uint8 [N, height, width, 3], memory-mapped."""

    ids: Ids
    images: NDArray[np.uint8]
    checksum: str
    folder: Path

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder in place of the images: another process of this machine maps the same file."""
        return _map_store, (self.ids, self.checksum, self.folder)


def open_store(
    folder: Path,
    manifest: dict[str, Any],
    image_shape: tuple[int, int, int],
    remedy: str = "python run.py prepare --again",
) -> ImageStore:
    """Open a folder of decoded images. Raises InputError if it is corrupted or does not match its manifest."""
    try:
        ids = np.load(folder / IDS, allow_pickle=False)
        images = _map_images(folder)
        status = (folder / IMAGES).stat()
        # The checksum of all images takes a second; it is not needed while the modification time is the same.
        is_intact = status.st_mtime_ns == manifest["mtime_ns"] or _checksum(folder) == manifest["checksum"]
    except Exception as error:
        # Corrupted bytes make numpy raise errors of any type, also MemoryError.
        raise _corrupted(folder, str(error), remedy) from None
    shape = (manifest["num_images"], *image_shape)
    if images.dtype != np.uint8 or images.shape != shape or ids.shape != shape[:1] or not is_intact:
        raise _corrupted(folder, "it does not match its manifest", remedy)
    return ImageStore(ids, images, manifest["checksum"], folder)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder; None if it is missing or incomplete."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = {"made_from", "num_images", "checksum", "mtime_ns"}
    return manifest if isinstance(manifest, dict) and keys <= manifest.keys() else None


def write_manifest(folder: Path, made_from: dict[str, Any], num_images: int) -> None:
    """Complete a folder that contains ids and images: write what they were made from, and their checksum."""
    manifest = {
        "made_from": made_from,
        "num_images": num_images,
        "checksum": _checksum(folder),
        "mtime_ns": (folder / IMAGES).stat().st_mtime_ns,
    }
    write_json(folder / MANIFEST, manifest)


def _map_store(ids: Ids, checksum: str, folder: Path) -> ImageStore:
    return ImageStore(ids, _map_images(folder), checksum, folder)


def _map_images(folder: Path) -> NDArray[np.uint8]:
    """Map the images into memory, or read them where the file system has no memory maps."""
    path = folder / IMAGES
    try:
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL, errno.EACCES, errno.EPERM) or not os.access(path, os.R_OK):
            raise
        log.warning("%s is read into memory: its file system has no memory maps (%s)", path, error.strerror)
        images = np.load(path, allow_pickle=False)
    return images


def _corrupted(folder: Path, cause: str, remedy: str) -> InputError:
    return InputError(f"{folder} is corrupted ({cause}); rebuild it: {remedy}")


def _checksum(folder: Path) -> str:
    """Return the CRC-32 of ids and images, which detects accidents, not attacks."""
    crc = 0
    for name in (IDS, IMAGES):
        with (folder / name).open("rb") as file:
            while data := file.read(READ_SIZE):
                crc = zlib.crc32(data, crc)
    return f"{crc:08x}"
