"""RunData -> the sections with images: what the network sees, errors, doubtful labels, duplicates, test images."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.task import CLASS_NAMES, NUM_TEST
from pipeline.config import MemberConfig
from pipeline.learning.dataset import normalize, shrink, unnormalize
from pipeline.learning.label_issues import find_label_issues_
from pipeline.learning.predict import tta_views
from pipeline.learning.seeding import fold_seed
from pipeline.learning.train import make_loader
from pipeline.report import figures
from pipeline.report.blocks import Block, Code, Figure, Gallery, Image_, Section, Strip, Text
from pipeline.report.run_data import Images, RunData
from pipeline.report.images import as_data_uri, training_image

NUM_IN_GALLERY = 24
NUM_EXAMPLES = 8  # training images whose augmented forms are shown
NUM_EPOCHS_SHOWN = 5
NUM_DUPLICATE_GROUPS = 6
NUM_OF_GROUP = 8


def training_images(facts: RunData) -> Section:
    """Show raw images, what the network saw of them, and the views of prediction."""
    inside = np.flatnonzero(facts.table.folds != 0)
    blocks: list[Block] = [_seen_by(facts, name, member, inside) for name, member in facts.config.members.items()]
    return Section("training-images", "What the network sees", [*blocks, _views(facts, inside)])


def _seen_by(facts: RunData, name: str, member: MemberConfig, inside: NDArray[np.int64]) -> Strip:
    """Show training images of fold 0, whose rows are `inside`, as a member saw them in some of its epochs."""
    loader = make_loader(
        member, facts.images[inside], facts.table.classes[inside], seed=fold_seed(facts.config.seed, name, 0)
    )
    epochs = _spread(member.train.epochs, NUM_EPOCHS_SHOWN)
    rows = []
    for place, row in enumerate(inside[:NUM_EXAMPLES]):
        pictures = [Image_(as_data_uri(facts.images[row]), "")]
        for epoch in epochs:
            image, size = loader.seen(place, epoch), member.train.image_size(epoch)
            shown = "" if image is None else as_data_uri(_shrunk(image, size))
            pictures.append(Image_(shown, "" if shown else "left over", f"{size} x {size} pixels"))
        rows.append((f"{facts.table.ids[row]} {CLASS_NAMES[facts.table.classes[row]]}", pictures))
    mixed = " Mixup or CutMix blends them afterwards." if member.train.mixup_alpha or member.train.cutmix_alpha else ""
    caption = f"{name}, fold 0: what the network saw, before normalisation.{mixed}"
    return Strip(caption, ["image", "raw", *(f"epoch {epoch + 1}" for epoch in epochs)], rows)


def _views(facts: RunData, inside: NDArray[np.int64]) -> Strip:
    views = tta_views(facts.config.predict.views)
    rows = []
    for row in inside[: NUM_EXAMPLES // 2]:
        image = torch.from_numpy(facts.images[row][None].copy()).permute(0, 3, 1, 2).float()
        looks = [view.of(image)[0].permute(1, 2, 0).numpy().astype(np.uint8) for view in views]
        rows.append((str(facts.table.ids[row]), [Image_(as_data_uri(look), "") for look in looks]))
    names = [
        f"{'mirrored' if view.mirrored else 'as it is'}{f', shift {view.shift:+d}' if view.shift else ''} "
        f"({view.weight:g})"
        for view in views
    ]
    return Strip("Prediction: the views of an image, with the weight of their logits.", ["image", *names], rows)


def errors(facts: RunData) -> Section:
    """Show the errors of which the blend was surest."""
    probabilities = facts.blended.of(facts.table.ids)
    wrong = np.flatnonzero(probabilities.argmax(1) != facts.table.classes)
    surest = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:NUM_IN_GALLERY]
    caption = f"The surest {len(surest)} of {len(wrong):,} errors, out of fold, at the temperatures."
    return Section("errors", "The surest errors", [Gallery(caption, _judged(facts, surest, probabilities))])


def label_errors(facts: RunData) -> Section:
    """Show training images whose label is probably wrong."""
    probabilities = facts.blended.of(facts.table.ids)
    rows = find_label_issues_(probabilities, facts.table.classes)
    text = (
        f"Confident learning (cleanlab) doubts {len(rows):,} of {len(facts.table.ids):,} labels "
        f"({len(rows) / len(facts.table.ids):.2%}). With a weak net many of them are the net's errors: look before you "
        "change a label."
    )
    if not len(rows):
        return Section("label-errors", "Doubtful labels", [Text(text)])
    shown = rows[:NUM_IN_GALLERY]
    listed = ", ".join(str(i) for i in facts.table.ids[rows[:500]])
    return Section(
        "label-errors",
        "Doubtful labels",
        [
            Text(text),
            Gallery(f"The {len(shown)} most doubtful.", _judged(facts, shown, probabilities)),
            Code(f"ids, the most doubtful first{' (500 of them)' if len(rows) > 500 else ''}", listed, is_open=False),
        ],
    )


def duplicates(facts: RunData) -> Section:
    """Show near-duplicates among the training images."""
    groups, sizes = np.unique(facts.table.groups, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    several = [group for group in order if sizes[group] > 1]
    num_images = int(sizes[several].sum()) if several else 0
    text = f"{num_images:,} images in {len(several):,} groups of near-duplicates; each group stays in one fold."
    if not facts.config.folds.group_duplicates:
        text = "Not looked for: the recipe has folds.group_duplicates: false."
    rows = []
    for group in several[:NUM_DUPLICATE_GROUPS]:
        of_group = np.flatnonzero(facts.table.groups == groups[group])
        shown = of_group[:NUM_OF_GROUP]
        pictures = [training_image(facts, int(row), CLASS_NAMES[facts.table.classes[row]]) for row in shown]
        rows.append((f"{len(of_group)} images", pictures))
    blocks: list[Block] = [Text(text)]
    if rows:
        blocks.append(Strip(f"The largest groups, at most {NUM_OF_GROUP} images of each.", [], rows))
    return Section("duplicates", "Near-duplicates", blocks)


def test_images(facts: RunData) -> Section:
    """Show what is said of the test images."""
    if facts.test is None:
        return Section("test-images", "Test images", [Text("Not predicted yet: python run.py predict.")])
    test = facts.test
    probabilities = test.predictions.probabilities
    confidence, n = probabilities.max(1), len(probabilities)
    said = np.bincount(probabilities.argmax(1), minlength=len(CLASS_NAMES)) / n
    trained = np.bincount(facts.table.classes, minlength=len(CLASS_NAMES)) / len(facts.table.classes)
    held_out = facts.blended.of(facts.table.ids)
    groups = {"said of the test images": said.tolist(), "training labels": trained.tolist()}
    least = np.argsort(confidence, kind="stable")[:NUM_IN_GALLERY]
    pictures = [
        Image_(as_data_uri(test.images[row]), f"{test.predictions.ids[row]}\n{_two_best(probabilities[row])}")
        for row in least
    ]
    most = " (Kaggle scores 10,000 of them; the others are there to prevent cheating)" if n == NUM_TEST else ""
    return Section(
        "test-images",
        "Test images",
        [
            Text(
                f"{n:,} images{most}. Mean confidence {confidence.mean():.3f}; of the held-out training images "
                f"{held_out.max(1).mean():.3f}."
            ),
            Figure(figures.histogram(confidence, "largest probability", "test"), f"Confidence, n = {n:,}."),
            Figure(
                figures.counts(test.passes, "passes (fold x view)", "passes"),
                f"How many passes the images got: {test.passes.mean():.2f} on average, of "
                f"{test.account['passes_of_everything']}; n = {n:,}.",
            ),
            Figure(figures.shares(CLASS_NAMES, groups), f"Classes, n = {n:,} and {len(facts.table.ids):,}."),
            Gallery(f"The {len(pictures)} least certain.", pictures),
        ],
    )


def _judged(facts: RunData, rows: Iterable[int], probabilities: NDArray[np.float32]) -> list[Image_]:
    """Return training images with their id, their class, and what was said of them."""
    found = []
    for row in rows:
        true = int(facts.table.classes[row])
        best = int(probabilities[row].argmax())
        caption = (
            f"{facts.table.ids[row]}\ntrue {CLASS_NAMES[true]} {probabilities[row, true]:.3f}\n"
            f"said {CLASS_NAMES[best]} {probabilities[row, best]:.3f}"
        )
        said = ", ".join(f"{n} {p:.3f}" for n, p in zip(CLASS_NAMES, probabilities[row], strict=True))
        found.append(Image_(as_data_uri(facts.images[row]), caption, said))
    return found


def _two_best(probabilities: NDArray[np.float32]) -> str:
    return "\n".join(f"{CLASS_NAMES[k]} {probabilities[k]:.3f}" for k in np.argsort(-probabilities)[:2])


def _shrunk(image: NDArray[np.uint8], size: int) -> Images:
    """Return an image as the training scales it."""
    inputs = normalize(torch.from_numpy(image[None]), torch.device("cpu"))
    return unnormalize(shrink(inputs, size))[0]


def _spread(num: int, most: int) -> list[int]:
    """Return at most so many of the numbers below `num`, the first and the last among them."""
    return sorted({round(value) for value in np.linspace(0, num - 1, min(num, most))})
