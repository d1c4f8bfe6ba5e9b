"""A fifth of the training images as test images with known labels, to measure a whole config: make them, score a run.

PYTHONPATH=. .venv/bin/python benchmarks/held_out.py make --input DIR OUT
.venv/bin/python run.py all --config CONFIG --input OUT --run NAME
PYTHONPATH=. .venv/bin/python benchmarks/held_out.py score OUT --run NAME

The held-out images are a stratified fold that keeps near-duplicates together. Select by out-of-fold scores, and score
the selected config once: a score that is used for selection is biased.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.data.image_cache import cache_folder
from pipeline.data.labels import parse_labels
from pipeline.data.prepare import prepare
from pipeline.data.source import find_source
from pipeline.evaluate import score_test_images
from pipeline.learning.duplicates import find_groups
from pipeline.learning.flops import forward_flops
from pipeline.learning.folds import make_folds
from pipeline.learning.predict import tta_views
from pipeline.learning.seeding import derive_seed
from pipeline.runs.run_folder import open_run
from pipeline.task import CIFAR10

SEED = derive_seed(2026, "pseudo-test")  # of the figures in docs/experiments.md
SOLUTION = "solution.csv"


def make(input_dir: Path, out: Path) -> None:
    """Write folders of images as Kaggle's archives contain them, four fifths in train/ and one in test/."""
    source = find_source(input_dir, CIFAR10)
    train = prepare(source, cache_folder(None, input_dir))["train"]
    labels, groups = source.labels().labels, find_groups(train.images)
    is_test = make_folds(labels, groups, num_folds=5, seed=SEED, class_names=CIFAR10.class_names) == 0
    write_images(out / "train", train.images[~is_test])
    write_images(out / "test", train.images[is_test])
    write_labels(out / "trainLabels.csv", labels[~is_test])
    write_labels(out / SOLUTION, labels[is_test])
    write_labels(out / "sampleSubmission.csv", np.zeros(int(is_test.sum()), np.int64))
    print(f"{out}: {(~is_test).sum():,} training images, {is_test.sum():,} test images with their labels in {SOLUTION}")


def write_images(folder: Path, images: NDArray[np.uint8]) -> None:
    """Write RGB images as 1.png, 2.png, ..."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images, start=1):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def write_labels(path: Path, labels: NDArray[np.int64]) -> None:
    """Write labels for the ids 1, 2, ..."""
    rows = (f"{number},{CIFAR10.class_names[label]}\n" for number, label in enumerate(labels, start=1))
    path.write_text("id,label\n" + "".join(rows))


def score(out: Path, run_name: str) -> None:
    """Print the accuracy of a run's test predictions, and what training and 300,000 predictions take."""
    run = open_run(run_name)
    metrics, test, config = run.metrics(), run.test_results(), run.config()
    solution = out / SOLUTION
    scores = score_test_images(test.predictions, parse_labels(solution.read_bytes(), str(solution), CIFAR10))
    if metrics.ensemble is None:
        raise SystemExit(f"error: the run {run_name} is not finished: python run.py all --run {run_name} --input {out}")
    training = sum(member.compute.training_flops for member in metrics.members.values())
    prediction = CIFAR10.num_test * test.stats.mean_forward_passes * mean_forward_flops(config)
    print(f"out of fold {metrics.ensemble.scores.accuracy:.4f}, n = {metrics.ensemble.scores.num_images:,}")
    low, high = scores.accuracy_ci95
    print(f"held out {scores.accuracy:.4f} ({low:.4f} to {high:.4f}), n = {scores.num_images:,}")
    print(
        f"{training / 1e15:.3f} PFLOP of training, {prediction / 1e15:.3f} of {CIFAR10.num_test:,} predictions with "
        f"{test.stats.mean_forward_passes:.2f} of {test.stats.full_forward_passes} forward passes each "
        f"({len(tta_views(config.predict.tta))} TTA views)"
    )


def mean_forward_flops(config: Config) -> float:
    """Return the FLOPs of a forward pass of one image, the mean over the members."""
    return float(np.mean([forward_flops(member, CIFAR10) for member in config.members.values()]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make_parser = commands.add_parser("make", help="write the images and their labels as an input folder OUT")
    score_parser = commands.add_parser("score", help="score a run whose input was OUT")
    make_parser.add_argument("--input", type=Path, default=Path("input"), help="folder of the competition's files")
    score_parser.add_argument("--run", required=True, help="name of the run")
    for command in (make_parser, score_parser):
        command.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "make":
        make(options.input, options.out)
    else:
        score(options.out, options.run)


if __name__ == "__main__":
    main()
