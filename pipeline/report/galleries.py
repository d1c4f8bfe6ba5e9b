"""RunData -> the sections with images."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.ensemble import Probabilities
from pipeline.learning.inputs import InputSpec
from pipeline.learning.label_issues import find_label_issues
from pipeline.learning.models import input_spec
from pipeline.learning.predict import TTAView, tta_views
from pipeline.learning.seeding import fold_seed
from pipeline.learning.train import make_loader
from pipeline.member_config import MemberConfig
from pipeline.report import figures
from pipeline.report.blocks import Block, CaptionedImage, Code, Figure, Gallery, ImageTable, Section, Text
from pipeline.report.images import as_data_uri, captioned_image, with_heat_map
from pipeline.report.run_data import RunData
from pipeline.temperature_scaling import to_probabilities

NUM_IN_GALLERY = 24
NUM_EXAMPLES = 8  # training images that are shown augmented
NUM_EPOCHS_SHOWN = 5
NUM_DUPLICATE_GROUPS = 6
NUM_OF_GROUP = 8
NUM_LISTED_IDS = 500
CPU = torch.device("cpu")


def training_images_section(data: RunData) -> Section:
    """Return the section with raw images, their augmented forms as each member trained on them, and their TTA views."""
    rows = np.flatnonzero(data.training_table.folds != data.config.folds.trained[0])
    members = data.config.members.items()
    blocks: list[Block] = [_augmented_images(data, name, member, rows) for name, member in members]
    specs = dict.fromkeys(input_spec(member.model, data.task) for _, member in members)
    blocks += [_tta_images(data, spec, rows[: NUM_EXAMPLES // 2]) for spec in specs]
    return Section("training-images", "Training images (what the model sees)", blocks)


def _augmented_images(data: RunData, name: str, member: MemberConfig, rows: NDArray[np.int64]) -> ImageTable:
    """Return training images of the first fold, the given rows of all, as in some epochs of a member's training."""
    table, all_images, fold = data.training_table, data.training_images, data.config.folds.trained[0]
    seed = fold_seed(data.config.seed, name, fold)
    loader = make_loader(member, all_images[rows], table.labels[rows], seed=seed)
    spec = input_spec(member.model, data.task)
    epochs = _spread(member.num_epochs, NUM_EPOCHS_SHOWN)
    image_rows = []
    for index, row in enumerate(rows[:NUM_EXAMPLES]):
        images = [CaptionedImage(as_data_uri(all_images[row]), "")]
        for epoch in epochs:
            augmented, size = loader.augmented_image(index, epoch), member.train.phase(epoch, spec.size).image_size
            source = "" if augmented is None else as_data_uri(_as_input(augmented, spec.at_size(size)))
            images.append(CaptionedImage(source, "" if source else "dropped", f"{size} x {size} pixels"))
        image_rows.append((f"{table.ids[row]} {data.task.class_names[table.labels[row]]}", images))
    mixes = member.train.mixup_alpha > 0 or member.train.cutmix_alpha > 0
    caption = (
        f"{name}, fold {fold}: augmented images as the model's input, without normalisation"
        f"{' and before Mixup or CutMix' if mixes else ''}. Dropped: in the incomplete last batch of the epoch."
    )
    return ImageTable(caption, ["image", "raw", *(f"epoch {epoch + 1}" for epoch in epochs)], image_rows)


def _tta_images(data: RunData, spec: InputSpec, rows: NDArray[np.int64]) -> ImageTable:
    views = tta_views(data.config.predict.tta)
    image_rows = []
    for row in rows:
        images = [CaptionedImage(as_data_uri(_as_input(data.training_images[row], spec, view)), "") for view in views]
        image_rows.append((str(data.training_table.ids[row]), images))
    caption = f"TTA views of the input, {spec.size} x {spec.size} pixels, with the weights of their logits."
    return ImageTable(caption, ["image", *map(_describe_view, views)], image_rows)


def confident_errors_section(data: RunData) -> Section:
    """Return the section with the errors with the highest confidence of the ensemble."""
    probabilities = data.probabilities
    wrong = np.flatnonzero(probabilities.argmax(1) != data.table.labels)
    top = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:NUM_IN_GALLERY]
    caption = f"The {len(top)} most confident of {len(wrong):,} errors, out of fold, with temperature scaling."
    images = _predicted_images(data, top, probabilities)
    if data.attribute is not None and len(top):
        maps = data.attribute(top, probabilities[top].argmax(1))
        images = [
            replace(image, heat_map=as_data_uri(with_heat_map(data.images[row], values)))
            for image, row, values in zip(images, top, maps, strict=True)
        ]
        caption += (
            " In red: what the wrong prediction depends on. The probability of the predicted class drops where a "
            "square of the image is hidden (occlusion), by the fold model of the member with the largest weight."
        )
    return Section("errors", "Most confident errors", [Gallery(caption, images)])


def label_issues_section(data: RunData) -> Section:
    """Return the section with training images whose label is probably wrong."""
    probabilities = data.probabilities
    rows = find_label_issues(probabilities, data.table.labels)
    num_images = len(data.table.ids)
    blocks: list[Block] = [
        Text(
            f"Confident learning (cleanlab) finds {len(rows):,} issues in {num_images:,} labels "
            f"({len(rows) / num_images:.2%}). With a weak model many of them are errors of the model: inspect the "
            "images before you change a label."
        )
    ]
    if len(rows):
        top, ids = rows[:NUM_IN_GALLERY], ", ".join(str(i) for i in data.table.ids[rows[:NUM_LISTED_IDS]])
        shortened = f" (the first {NUM_LISTED_IDS})" if len(rows) > NUM_LISTED_IDS else ""
        blocks += [
            Gallery(f"The {len(top)} most likely issues.", _predicted_images(data, top, probabilities)),
            Code(f"ids, the most likely issues first{shortened}", ids, is_open=False),
        ]
    return Section("label-issues", "Label issues", blocks)


def near_duplicates_section(data: RunData) -> Section:
    """Return the section with groups of near-duplicate training images."""
    table, names = data.training_table, data.task.class_names
    groups, sizes = np.unique(table.groups, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    largest = order[sizes[order] > 1]
    text = f"{sizes[largest].sum():,} images in {len(largest):,} groups of near-duplicates; each group is in one fold."
    if not data.config.folds.group_duplicates:
        text = "Not computed: the config has folds.group_duplicates: false."
    image_rows = []
    for group in largest[:NUM_DUPLICATE_GROUPS]:
        rows = np.flatnonzero(table.groups == groups[group])
        images = [
            captioned_image(data.training_images, table, names, int(row), names[table.labels[row]])
            for row in rows[:NUM_OF_GROUP]
        ]
        image_rows.append((f"{len(rows)} images", images))
    blocks: list[Block] = [Text(text)]
    if image_rows:
        blocks.append(ImageTable(f"The largest groups, at most {NUM_OF_GROUP} images of each.", [], image_rows))
    return Section("duplicates", "Near-duplicates", blocks)


def test_images_section(data: RunData) -> Section:
    """Return the section with confidence, forward passes, predicted classes and the least confident test images."""
    if data.test is None or data.test_images is None:
        return Section("test-images", "Test images", [Text("Not predicted yet: python run.py predict.")])
    test, task, ids = data.test, data.task, data.test.predictions.ids
    probabilities = to_probabilities(test.predictions.logits)
    confidence, n = probabilities.max(1), len(ids)
    shares = {
        "predicted test labels": _class_shares(probabilities.argmax(1), task.num_classes),
        "training labels": _class_shares(data.training_table.labels, task.num_classes),
    }
    images = [
        CaptionedImage(as_data_uri(data.test_images[row]), f"{ids[row]}\n{_top_two(probabilities[row], data)}")
        for row in np.argsort(confidence, kind="stable")[:NUM_IN_GALLERY]
    ]
    has_distractors = n == task.num_test > task.num_scored_test
    scored = f" (Kaggle scores {task.num_scored_test:,} of them, the others are distractors)" if has_distractors else ""
    text = (
        f"{n:,} images{scored}. Mean confidence {confidence.mean():.3f}; out of fold, on the training images, "
        f"{data.probabilities.max(1).mean():.3f}."
    )
    passes = (
        f"Forward passes per image: {test.forward_passes.mean():.2f} on average, of {test.stats.full_forward_passes} "
        f"of the full ensemble; n = {n:,}."
    )
    blocks: list[Block] = [
        Text(text),
        Figure(figures.histogram(confidence, "confidence (largest probability)", "test"), f"Confidence, n = {n:,}."),
        Figure(figures.counts(test.forward_passes, "forward passes (models x TTA views)", "passes"), passes),
        Figure(
            figures.class_shares(task.class_names, shares), f"Classes, n = {n:,} and {len(data.training_table.ids):,}."
        ),
        Gallery(f"The {len(images)} least confident predictions.", images),
    ]
    return Section("test-images", "Test images", blocks)


def _predicted_images(data: RunData, rows: Iterable[int], probabilities: Probabilities) -> list[CaptionedImage]:
    """Return training images with id, true and predicted class; the tooltips have all probabilities."""
    names, images = data.task.class_names, []
    for row in rows:
        true, predicted = int(data.table.labels[row]), int(probabilities[row].argmax())
        caption = (
            f"{data.table.ids[row]}\ntrue {names[true]} {probabilities[row, true]:.3f}\n"
            f"predicted {names[predicted]} {probabilities[row, predicted]:.3f}"
        )
        title = ", ".join(f"{name} {p:.3f}" for name, p in zip(names, probabilities[row], strict=True))
        images.append(CaptionedImage(as_data_uri(data.images[row]), caption, title))
    return images


def _top_two(probabilities: NDArray[np.float32], data: RunData) -> str:
    best = np.argsort(-probabilities)[:2]
    return "\n".join(f"{data.task.class_names[label]} {probabilities[label]:.3f}" for label in best)


def _class_shares(labels: NDArray[np.int64], num_classes: int) -> list[float]:
    shares: list[float] = (np.bincount(labels, minlength=num_classes) / len(labels)).tolist()
    return shares


def _as_input(image: NDArray[np.uint8], spec: InputSpec, view: TTAView | None = None) -> NDArray[np.uint8]:
    """Return an image as a model's input, optionally one of its TTA views, turned back into uint8."""
    inputs = spec.to_input(torch.from_numpy(image[None].copy()), CPU)
    return spec.to_images(inputs if view is None else view.apply(inputs, len(image)))[0]


def _describe_view(view: TTAView) -> str:
    translation = f", translated {view.translation:+d}" if view.translation else ""
    return f"{'flipped' if view.flipped else 'original'}{translation} ({view.weight:g})"


def _spread(num: int, max_count: int) -> list[int]:
    """Return at most `max_count` numbers below `num`, evenly spread, the first and the last among them."""
    return sorted({round(value) for value in np.linspace(0, num - 1, min(num, max_count))})
