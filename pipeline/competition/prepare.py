"""An input folder -> the decoded images of both splits."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.competition.facts import Ids, Split
from pipeline.competition.images import ImageStore, any_ids, cache_folder, prepare_images
from pipeline.competition.source import Source, find_source
from pipeline.errors import InputError
from pipeline.progress import live_view, log


def prepare(input_dir: Path, cache_dir: Path | None = None, *, again: bool = False) -> dict[Split, ImageStore]:
    """Decode the images of both splits; what is decoded already is only opened. Raises InputError."""
    source = find_source(input_dir)
    stores: dict[Split, ImageStore] = {}
    for split in ("train", "test"):
        began = time.perf_counter()
        with live_view() as view, view.bar(f"decode {split} images") as on_images:
            folder = cache_folder(cache_dir, input_dir)
            stores[split] = prepare_images(
                source,
                split,
                folder,
                again=again,
                check_ids=partial(_check_labelled, source) if split == "train" else any_ids,
                on_images=on_images,
            )
        seconds = time.perf_counter() - began
        log.info("%s images of %s: %s ready in %.1f s", split, source.name, f"{len(stores[split].ids):,}", seconds)
    return stores


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
