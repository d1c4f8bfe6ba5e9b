"""A source -> the decoded images of both splits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.advice import download_again
from pipeline.data.image_cache import accept_all, prepare_images
from pipeline.data.image_store import ImageStore
from pipeline.data.prefetch import CancelledError
from pipeline.data.source import Source
from pipeline.errors import InputError
from pipeline.progress import log, progress_display
from pipeline.task import Ids, Split


def prepare(source: Source, cache_dir: Path, *, again: bool = False) -> dict[Split, ImageStore]:
    """Decode the images of both splits into the cache, or open what is there; `again` decodes in any case.

    Both splits at once: LZMA decodes a block on one core, and decoding its images does not fill another one.

    Raises InputError for invalid files, and if ids of training images and labels differ.
    """
    splits: tuple[Split, ...] = ("train", "test")
    cancelled = threading.Event()
    with progress_display() as display, ThreadPoolExecutor(len(splits)) as pool:

        def prepare_split(split: Split) -> ImageStore:
            started = time.perf_counter()
            with display.bar(f"decode {split} images") as bar:

                def on_progress(done: int, total: int) -> None:
                    if cancelled.is_set():
                        raise CancelledError
                    bar(done, total)

                check_ids = partial(_check_labels, source) if split == "train" else accept_all
                store = prepare_images(
                    source, split, cache_dir, again=again, check_ids=check_ids, on_progress=on_progress
                )
            seconds = time.perf_counter() - started
            log.info("%s images: %s, source %s, %.1f s", split, f"{len(store.ids):,}", source.name, seconds)
            return store

        futures = {split: pool.submit(prepare_split, split) for split in splits}
        try:
            for future in as_completed(futures.values()):
                future.result()
        finally:
            # After an error in one split, or Ctrl-C, do not wait for the other one.
            cancelled.set()
    return {split: future.result() for split, future in futures.items()}


def _check_labels(source: Source, image_ids: Ids) -> None:
    """Raises InputError unless the ids of images and labels are the same."""
    label_ids = source.labels().ids
    for unpaired, problem in (
        (np.setdiff1d(label_ids, image_ids), "has a label and no image"),
        (np.setdiff1d(image_ids, label_ids), "has an image and no label"),
    ):
        if len(unpaired):
            raise InputError(
                f"{source.name}: the training id {unpaired[0]} {problem} ({len(unpaired):,} such ids); "
                "extract the images again; if that does not help, images and labels are of different downloads: "
                f"{download_again(source.folder)}"
            )
