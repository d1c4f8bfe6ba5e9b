"""A source -> one store of decoded images per split; each image is decoded once, by one process."""

import os
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0

from pipeline.advice import prepare_again
from pipeline.cores import threads_of_python
from pipeline.data.image_store import FILES, IDS, IMAGES, ImageStore, open_store, read_manifest, write_manifest
from pipeline.data.source import Source
from pipeline.error_messages import explain_cause
from pipeline.errors import InputError
from pipeline.locks import file_lock
from pipeline.progress import ProgressCallback, no_progress
from pipeline.task import SPLITS, Ids, Split

FORMAT = 1  # of the cache; increment it when the decoder's output changes
CHUNK_SIZE = 200  # images per decode job


def accept_all(_ids: Ids) -> None:
    """Accept any ids."""


def cache_folder(wanted: Path | None, input_dir: Path) -> Path:
    """Return the cache: `wanted`, or else .cache in the input folder.

    Where that folder is read-only and has no complete cache, it is a folder of its own in ./input/.cache.
    """
    if wanted is not None:
        return wanted
    cache = input_dir / ".cache"
    if os.access(input_dir, os.W_OK) or all(read_manifest(cache / split) is not None for split in SPLITS):
        return cache
    path = input_dir.resolve()
    return Path("input") / ".cache" / f"{path.name}-{zlib.crc32(os.fsencode(path)):08x}"


def prepare_images(
    source: Source,
    split: Split,
    cache_dir: Path,
    *,
    again: bool = False,
    check_ids: Callable[[Ids], None] = accept_all,
    on_progress: ProgressCallback = no_progress,
) -> ImageStore:
    """Open a split's store, or decode its images into one first; `on_progress` is called with (done, total) images.

    `check_ids` is called before anything is decoded, and raises if the ids are invalid. Of several processes that need
    the same store one decodes, and the others wait for it.

    Raises InputError if the store was made from other files (unless `again`), and for every error of the source.
    """
    folder = cache_dir / split
    made_from = {"format": FORMAT, "source": source.fingerprint(split)}
    with _lock_if_writable(cache_dir, split, lambda: on_progress(0, 1)):
        store = None if again else _open_if_made(folder, made_from, source)
        if store is not None:
            check_ids(store.ids)
            return store
        _require_own_folder(folder)
        ids = source.ids(split)
        check_ids(ids)
        with _write_errors(folder, len(ids) * int(np.prod(source.task.image_shape))):
            _make_store(source, split, ids, folder, made_from, on_progress)
        store = _open_if_made(folder, made_from, source)
    assert store is not None
    return store


@contextmanager
def _lock_if_writable(cache_dir: Path, split: Split, on_wait: Callable[[], None]) -> Iterator[None]:
    """Lock a split's store; one in a read-only folder, which nobody changes, needs no lock."""
    with ExitStack() as stack:
        try:
            if not cache_dir.is_dir() or os.access(cache_dir, os.W_OK):
                lock = cache_dir / f".{split}.lock"
                stack.enter_context(file_lock(lock, wait_for=f"it decodes the {split} images", on_wait=on_wait))
        except OSError as error:
            raise _unwritable("the decoded images", cache_dir, error) from None
        yield


def _require_own_folder(folder: Path) -> None:
    """Raise InputError if a folder contains anything but a store: it would be removed."""
    others = sorted({path.name for path in folder.iterdir()} - set(FILES)) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        found = f"contains {others[0]}" if others else "is a file"
        raise InputError(
            f"{folder} {found}, so it is not a folder of decoded images, and is not changed; choose another folder "
            "with --set images.cache_dir=DIR"
        )


def _open_if_made(folder: Path, made_from: dict[str, Any], source: Source) -> ImageStore | None:
    """Open a store if it is there. Raises InputError if it was made from other files, or is corrupted."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest["made_from"] != made_from:
        raise InputError(
            f"{folder} was made from {_describe(manifest['made_from'])}, the input is now {_describe(made_from)}. "
            f"To rebuild it: {prepare_again(source.folder)}; to keep it: --set images.cache_dir=DIR"
        )
    return open_store(folder, manifest, source.task.image_shape, prepare_again(source.folder))


@contextmanager
def _write_errors(folder: Path, num_bytes: int) -> Iterator[None]:
    """Convert write errors of a store into InputError."""
    try:
        yield
    except OSError as error:
        raise _unwritable(f"the decoded images ({num_bytes / 1e6:,.0f} MB)", folder, error) from None


def _unwritable(what: str, folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{what} can't be written to {folder}: {explain_cause(error)}, or choose another folder with --set "
        "images.cache_dir=DIR"
    )


def _make_store(
    source: Source, split: Split, ids: Ids, folder: Path, made_from: dict[str, Any], on_progress: ProgressCallback
) -> None:
    """Decode into a temporary folder, then rename it; those of interrupted processes are removed. Needs the lock."""
    for leftover in folder.parent.glob(f"{split}.*.partial"):
        if leftover.suffixes[0][1:].isdigit():
            shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(f"{split}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        np.save(partial / IDS, ids)
        with (partial / IMAGES).open("wb", buffering=0) as file:
            _decode_all(source, split, ids, file, on_progress)
            os.fsync(file.fileno())
        write_manifest(partial, made_from, len(ids))
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decode_all(source: Source, split: Split, ids: Ids, file: FileIO, on_progress: ProgressCallback) -> None:
    """Write each image at the row of its id, in the order of arrival."""
    image_shape = source.task.image_shape
    image_size = int(np.prod(image_shape))
    write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (len(ids), *image_shape)})
    start, row_of = file.tell(), {int(image_id): row for row, image_id in enumerate(ids)}
    writing = threading.Lock()

    def decode(chunk: list[tuple[int, bytes]]) -> int:
        for image_id, data in chunk:
            try:
                image = source.decode(data)
            except InputError as error:
                raise InputError(f"{source.name}: {split}/{image_id}.png {error}") from None
            with writing:
                _write_at(file, image.tobytes(), start + row_of.pop(image_id) * image_size)
        return len(chunk)

    num_threads, num_done, futures = threads_of_python(), 0, deque[Future[int]]()
    with source.read(split) as images, ThreadPoolExecutor(num_threads) as pool:
        try:
            while chunk := list(islice(images, CHUNK_SIZE)):
                futures.append(pool.submit(decode, chunk))
                if len(futures) > 2 * num_threads:
                    num_done += futures.popleft().result()
                    on_progress(num_done, len(ids))
            for future in futures:
                num_done += future.result()
                on_progress(num_done, len(ids))
        finally:
            pool.shutdown(cancel_futures=True)
    if row_of:
        missing = min(row_of)
        raise InputError(
            f"{source.name} does not contain {split}/{missing}.png ({len(row_of)} images are missing in all)"
        )


def _write_at(file: FileIO, data: bytes, position: int) -> None:
    """Write all the data: on a disk that is nearly full, one call may write only a part and raise nothing."""
    file.seek(position)
    while data:
        data = data[file.write(data) :]


def _describe(made_from: dict[str, Any]) -> str:
    file = made_from["source"]
    modified = np.datetime64(file["mtime_ns"] // 10**9, "s")
    checksum = f", checksum {file['checksum']}" if "checksum" in file else ""
    return f"{file['name']} (size {file['size']:,}, modified {modified} UTC{checksum})"
