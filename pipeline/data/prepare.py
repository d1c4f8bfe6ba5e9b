"""An input folder -> the decoded images of both splits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.task import Ids, Split
from pipeline.data.image_cache import ImageStore, accept_all, cache_folder, prepare_images
from pipeline.data.source import Source, find_source
from pipeline.errors import InputError
from pipeline.progress import progress_display, log


def prepare(input_dir: Path, cache_dir: Path | None = None, *, again: bool = False) -> dict[Split, ImageStore]:
    """Decode the images of both splits; what is decoded already is only opened. Raises InputError.

    Both at once: LZMA decodes a block on one core, and what the other core has to do would not fill it.
    """
    source, folder = find_source(input_dir), cache_folder(cache_dir, input_dir)
    splits: tuple[Split, ...] = ("train", "test")
    stop = threading.Event()
    with progress_display() as view, ThreadPoolExecutor(len(splits)) as pool:

        def prepare_split(split: Split) -> ImageStore:
            began = time.perf_counter()
            with view.bar(f"decode {split} images") as bar:

                def tell(done: int, total: int) -> None:
                    if stop.is_set():
                        raise _CancelledError
                    bar(done, total)

                check_ids = partial(_check_labelled, source) if split == "train" else accept_all
                store = prepare_images(source, split, folder, again=again, check_ids=check_ids, on_images=tell)
            seconds = time.perf_counter() - began
            log.info("%s images of %s: %s ready in %.1f s", split, source.name, f"{len(store.ids):,}", seconds)
            return store

        running = {split: pool.submit(prepare_split, split) for split in splits}
        try:
            for done in as_completed(running.values()):
                done.result()
        finally:
            # After a fault of one split, or Ctrl-C, nobody waits for the other.
            stop.set()
    return {split: future.result() for split, future in running.items()}


class _CancelledError(Exception):
    """Ends the preparation of a split that nobody waits for."""


def _check_labelled(source: Source, with_image: Ids) -> None:
    with_label = source.labels().ids
    for only, what in (
        (np.setdiff1d(with_label, with_image), "has a label and no image"),
        (np.setdiff1d(with_image, with_label), "has an image and no label"),
    ):
        if len(only):
            raise InputError(
                f"{source.name}: the training id {only[0]} {what} ({len(only):,} such ids); "
                "images and labels are not of the same download"
            )
