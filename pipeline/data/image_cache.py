"""A source's stream -> one uint8 array [N, 32, 32, 3] on disk per split, decoded once, checked, memory-mapped."""

import json
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from pipeline.task import IMAGE_SHAPE, Ids, Split
from pipeline.data.source import Source
from pipeline.errors import InputError
from pipeline.files import write_json
from pipeline.progress import ProgressCallback, no_progress

FORMAT = 1  # raised when the code would decode the same files to other bytes
IMAGE_BYTES = int(np.prod(IMAGE_SHAPE))
PIECE = 1 << 24
CHUNK = 200  # images that a thread decodes at a time


@dataclass(frozen=True)
class ImageStore:
    """The images of a split: ids [N], ascending, and uint8 images [N, 32, 32, 3], memory-mapped."""

    ids: Ids
    images: NDArray[np.uint8]
    checksum: str
    folder: Path

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the images are and not their bytes: another process of this machine maps the same file."""
        return _map_again, (self.ids, self.checksum, self.folder)


def accept_all(_ids: Ids) -> None:
    """Be content with any ids."""


def cache_folder(wanted: Path | None, input_dir: Path) -> Path:
    """Return where the decoded images go: as wanted, else in the input folder, or in ./input if that is read-only."""
    if wanted is not None:
        return wanted
    place = input_dir if os.access(input_dir, os.W_OK) else Path("input")
    return place / ".cache"


def prepare_images(
    source: Source,
    split: Split,
    cache_dir: Path,
    *,
    again: bool = False,
    check_ids: Callable[[Ids], None] = accept_all,
    on_images: ProgressCallback = no_progress,
) -> ImageStore:
    """Open a split's store, or decode its images into one first; `on_images` hears of the done and of all.

    `check_ids` sees the ids before anything is decoded and raises if they won't do.

    Raises InputError when the store was made from other files (unless `again`), and for every fault of the source.
    """
    folder = cache_dir / split
    made_from = {"format": FORMAT, "source": source.fingerprint(split)}
    manifest = _read_manifest(folder)
    if manifest is not None and not again:
        if manifest["made_from"] != made_from:
            raise InputError(
                f"{folder} was made from {_describe(manifest['made_from'])}, the input is now {_describe(made_from)}. "
                "To make it again: python run.py prepare --again; to keep it: --set images.cache_dir=DIR"
            )
        store = open_store(folder, manifest)
        check_ids(store.ids)
        return store
    ids = source.ids(split)
    check_ids(ids)
    _make_store(source, split, ids, folder, made_from, on_images)
    made = _read_manifest(folder)
    assert made is not None
    return open_store(folder, made)


def _make_store(
    source: Source, split: Split, ids: Ids, folder: Path, made_from: dict[str, Any], on_images: ProgressCallback
) -> None:
    """Decode into a folder beside, then take the name; a folder that broke off before is swept away."""
    partial = folder.with_name(f"{split}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        np.save(partial / "ids.npy", ids)
        with (partial / "images.npy").open("wb") as file:
            _decode_all(source, split, ids, file, on_images)
            file.flush()
            os.fsync(file.fileno())
        status = (partial / "images.npy").stat()
        manifest = {
            "made_from": made_from,
            "num_images": len(ids),
            "checksum": _checksum(partial),
            "mtime_ns": status.st_mtime_ns,
        }
        write_json(partial / "manifest.json", manifest)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except OSError as error:
        raise InputError(
            f"the decoded images can't be written to {folder}: {error.strerror or error}. They take "
            f"{len(ids) * IMAGE_BYTES / 1e6:,.0f} MB; make room, or choose a place with --set images.cache_dir=DIR"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decode_all(source: Source, split: Split, ids: Ids, file: BinaryIO, on_images: ProgressCallback) -> None:
    """Write each image at the row of its id, in whatever order they come."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(ids), *IMAGE_SHAPE)}
    write_array_header_1_0(file, header)
    file.flush()
    start, row_of = file.tell(), {int(number): row for row, number in enumerate(ids)}

    def decode(chunk: list[tuple[int, bytes]]) -> int:
        for number, data in chunk:
            try:
                image = source.decode(data)
            except InputError as error:
                raise InputError(f"{source.name}: {split}/{number}.png {error}") from None
            _write_at(file, image.tobytes(), start + row_of.pop(number) * IMAGE_BYTES)
        return len(chunk)

    num_threads, num_done = joblib.cpu_count(), 0
    images, decoding = source.read(split), deque[Future[int]]()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            while chunk := list(islice(images, CHUNK)):
                decoding.append(pool.submit(decode, chunk))
                if len(decoding) > 2 * num_threads:
                    num_done += decoding.popleft().result()
                    on_images(num_done, len(ids))
            for last in decoding:
                num_done += last.result()
                on_images(num_done, len(ids))
        finally:
            pool.shutdown(cancel_futures=True)
    if row_of:
        missing = min(row_of)
        raise InputError(f"{source.name} ends without {split}/{missing}.png ({len(row_of)} are missing in all)")


def _write_at(file: BinaryIO, data: bytes, position: int) -> None:
    """Write all of it: on a disk that is nearly full the system may take a part and raise nothing."""
    while data:
        taken = os.pwrite(file.fileno(), data, position)
        data, position = data[taken:], position + taken


def open_store(folder: Path, manifest: dict[str, Any]) -> ImageStore:
    """Open a folder of decoded images, held against its manifest. Raises InputError if it is damaged."""
    try:
        ids = np.load(folder / "ids.npy", allow_pickle=False)
        images = _map_images(folder)
        status = (folder / "images.npy").stat()
        # Reading it all takes a second; while nobody has written to it since, its time of change will do.
        whole = status.st_mtime_ns == manifest["mtime_ns"] or _checksum(folder) == manifest["checksum"]
    except Exception as error:
        # Damaged bytes make numpy raise whatever they happen to hit, MemoryError among it.
        raise InputError(_damaged(folder, str(error))) from None
    shape = (manifest["num_images"], *IMAGE_SHAPE)
    if images.dtype != np.uint8 or images.shape != shape or ids.shape != shape[:1] or not whole:
        raise InputError(_damaged(folder, "it is not what its manifest says"))
    return ImageStore(ids, images, manifest["checksum"], folder)


def _map_again(ids: Ids, checksum: str, folder: Path) -> ImageStore:
    return ImageStore(ids, _map_images(folder), checksum, folder)


def _map_images(folder: Path) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return images


def _damaged(folder: Path, why: str) -> str:
    return f"{folder} is damaged ({why}); make it again: python run.py prepare --again"


def _checksum(folder: Path) -> str:
    """CRC-32 of the images and their ids: against accidents, not against malice."""
    crc = 0
    for name in ("ids.npy", "images.npy"):
        with (folder / name).open("rb") as file:
            while piece := file.read(PIECE):
                crc = zlib.crc32(piece, crc)
    return f"{crc:08x}"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = {"made_from", "num_images", "checksum", "mtime_ns"}
    return manifest if isinstance(manifest, dict) and keys <= manifest.keys() else None


def _describe(made_from: dict[str, Any]) -> str:
    file = made_from["source"]
    return f"{file['name']} (size {file['size']:,}, changed at {file['mtime_ns'] / 1e9:.0f})"
