"""The recipe: prepare, train, validate, predict, ensemble, report. The order is here, the logic in the rooms."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import checking, submitting
from pipeline.submission import kaggle_client
from pipeline.demo.dataset import draw_once
from pipeline.task import CLASS_NAMES, Split
from pipeline.data.image_cache import ImageStore
from pipeline.data.labels import Labels
from pipeline.data.prepare import prepare
from pipeline.data.source import find_source
from pipeline.submission.csv_file import write_submission
from pipeline.config import Config
from pipeline.errors import InputError, RunError
from pipeline.executors.factory import ExecutorName, ExecutorOptions, open_executor
from pipeline.files import write_text
from pipeline.executors.fold_job import FoldJob
from pipeline.learning.augment import Augmentation
from pipeline.learning.dataset import dataloader_errors
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.duplicates import count_duplicates, find_groups
from pipeline.ensemble import find_temperature, find_weights
from pipeline.learning.flops import prediction_flop, training_flop
from pipeline.learning.folds import make_folds
from pipeline.learning.metrics import paired_test, score, score_by_class
from pipeline.learning.models import create_model
from pipeline.learning.seeding import derive_seed, fold_seed
from pipeline.predictions import blend, join
from pipeline.progress import progress_display, log
from pipeline.config_files import DEFAULT_CONFIG, differences, load_config, override_config
from pipeline.cascade import predict_cascade, total_prediction_flops
from pipeline.runs.environment import describe_environment
from pipeline.runs.trackers import require_tensorboard
from pipeline.runs.run_folder import FoldTable, RunFolder
from pipeline.ledger import SUBMISSIONS, Ledger, Upload

# The reports import their own rooms: matplotlib and cleanlab take seconds, and few commands draw.


@dataclass(frozen=True)
class Work:
    """A recipe, the folder of the input, and the folder of the run."""

    config: Config
    input_dir: Path
    run: RunFolder
    recipe: str
    """The recipe's name, for the ledger."""
    where: ExecutorOptions

    def fold_jobs(self) -> Iterator[FoldJob]:
        """Yield every fold of every member."""
        for name, member in self.config.members.items():
            for fold in range(self.config.folds.num_folds):
                yield FoldJob(
                    name,
                    member,
                    fold,
                    fold_seed(self.config.seed, name, fold),
                    self.config.predict.views,
                    self.run.fold(name, fold),
                    self.config.log.tensorboard,
                )


def open_work(
    recipe: Path | None,
    input_dir: Path,
    run: str | None,
    overrides: Iterable[str] = (),
    executor: ExecutorName = "local",
    address: str | None = None,
) -> Work:
    """Put a command's options together. A run that is there goes on with its own recipe unless another is named."""
    where, folder = ExecutorOptions(executor, address), open_run(run or (recipe or DEFAULT_CONFIG).stem)
    if recipe is None and folder.exists:
        return Work(override_config(folder.config(), overrides), input_dir, folder, folder.name, where)
    config = load_config(recipe or DEFAULT_CONFIG, overrides)
    return Work(config, input_dir, folder, (recipe or DEFAULT_CONFIG).stem, where)


def open_run(name: str | None) -> RunFolder:
    """Return the folder of a run, the default recipe's if there is no name."""
    return RunFolder(SUBMISSIONS, name or DEFAULT_CONFIG.stem)


def download(input_dir: Path) -> Path:
    """Fetch Kaggle's files with the kaggle client."""
    return kaggle_api.Kaggle().download(input_dir)


def draw_demo(input_dir: Path) -> tuple[Path, Labels]:
    """Draw the demo's competition; return its folder and the labels of its test images."""
    return draw_once(input_dir)


def train(work: Work, *, only_fold: int | None = None, then_predict: bool = False) -> None:
    """Train and judge what is not trained yet; with `then_predict` the time left that is shown is that of both."""
    num_folds = work.config.folds.num_folds
    if only_fold is not None and not 0 <= only_fold < num_folds:
        raise InputError(f"--fold {only_fold}: the recipe has the folds 0 to {num_folds - 1}")
    work.run.check_recipe(work.config)
    _check_recipe(work.config)
    find_source(work.input_dir)
    with work.run.writing():
        machine = set_up_machine(work.config.machine)
        with work.run.timing("prepare"):
            stores = prepare(work.input_dir, work.config.images.cache_dir)
        table = _begin_run(work, stores, machine)
        jobs = [job for job in work.fold_jobs() if only_fold in (None, job.fold) and not job.folder.is_trained]
        for damaged in (path for job in jobs for path in job.folder.broken()):
            log.warning("%s is damaged or gone; its fold is trained again", damaged)
        to_do = sum(job.training_flops(table) for job in jobs)
        if then_predict:
            to_do += total_prediction_flops(list(work.fold_jobs()), work.config.predict.selective, len(stores["test"].ids))
        with (
            dataloader_errors(),
            work.run.timing("train"),
            progress_display(to_do) as view,
            open_executor(work.where, work.config.machine, machine) as executor,
        ):
            executor.train(jobs, stores["train"], table, view)


def validate(run: RunFolder) -> dict[str, Any]:
    """Score what is trained: per fold, out of fold, blended. Write metrics.json and ensemble.json, return the first."""
    config, table = run.config(), run.folds()
    metrics: dict[str, Any] = {"members": {}, "missing": []}
    out_of_fold = {}
    for name in config.members:
        folders = {fold: run.fold(name, fold) for fold in range(config.folds.num_folds)}
        judged = {fold: folder.out_of_fold() for fold, folder in folders.items() if folder.is_trained}
        metrics["missing"] += [
            f"{name} fold {fold}" + "".join(f" ({path.name} is damaged or gone)" for path in folders[fold].broken())
            for fold in folders
            if fold not in judged
        ]
        scores = {str(fold): score(p.probabilities, table.classes_of(p.ids)) for fold, p in judged.items()}
        metrics["members"][name] = {"folds": scores, "compute": _compute(config, name, table, judged, run)}
        if len(judged) == len(folders):
            out_of_fold[name] = join(list(judged.values()))
            metrics["members"][name]["out_of_fold"] = score(out_of_fold[name].of(table.ids), table.classes)
    if not metrics["missing"]:
        temperatures = {name: find_temperature(p.of(table.ids), table.classes) for name, p in out_of_fold.items()}
        calibrated = {name: p.at_temperature(temperatures[name]) for name, p in out_of_fold.items()}
        weights = find_weights({name: p.of(table.ids) for name, p in calibrated.items()}, table.classes)
        blended = blend(calibrated, weights).of(table.ids)
        metrics |= {"temperatures": temperatures, "weights": weights, "blend": score(blended, table.classes)}
        metrics |= score_by_class(blended, table.classes, CLASS_NAMES)
        alone = {name: metrics["members"][name]["out_of_fold"] for name in weights}
        kept = {"temperatures": temperatures, "weights": weights, "alone": alone, "blend": metrics["blend"]}
        run.save_json("ensemble.json", kept)
    run.save_json("metrics.json", metrics)
    return metrics


def predict_test(work: Work) -> dict[str, Any] | None:
    """Predict the test images with every fold, blend them, write submission.csv and check it.

    Returns the scores on the test images where the source has their labels.
    """
    metrics = validate(work.run)
    if metrics["missing"]:
        raise RunError(f"not trained yet: {', '.join(metrics['missing'])}; python run.py train --run {work.run.name}")
    source = find_source(work.input_dir)
    with work.run.writing():
        machine = set_up_machine(work.config.machine)
        stores = prepare(work.input_dir, work.config.images.cache_dir)
        _begin_run(work, stores, machine)
        jobs, selective = list(work.fold_jobs()), work.config.predict.selective
        to_do = total_prediction_flops(jobs, selective, len(stores["test"].ids))
        with (
            work.run.timing("predict"),
            progress_display(to_do) as view,
            open_executor(work.where, work.config.machine, machine) as executor,
        ):
            found = predict_cascade(
                jobs,
                work.run.load_json("ensemble.json"),
                stores["test"],
                executor,
                view,
                selective=selective,
                seed=derive_seed(work.config.seed, "sample"),
                held_out=work.run.ensemble_out_of_fold(),
            )
        work.run.save_test(found.blended, found.passes)
        work.run.save_json("passes.json", found.account)
        ids = stores["test"].ids
        write_submission(work.run.submission, ids, found.blended.probabilities.argmax(1))
    problems, _ = checking.check(work.run.submission, work.input_dir)
    if problems:
        raise RunError(f"{work.run.submission} is not what was written: {'; '.join(problems)}")
    labels = source.test_labels()
    return None if labels is None else score_test(work.run, labels)


def report(run: RunFolder, input_dir: Path) -> Path:
    """Write a run's report.html and return where it is. Raises RunError before all folds are trained."""
    from pipeline.report.run_data import gather
    from pipeline.report.page import render
    from pipeline.report.run_page import run_page

    metrics = validate(run)
    if metrics["missing"]:
        raise RunError(
            f"not trained yet: {', '.join(metrics['missing'])}; a report needs all folds of the run {run.name}"
        )
    stores = prepare(input_dir, run.config().images.cache_dir)
    run.check_input(_checksums(stores, find_source(input_dir).labels()))
    uploads = [upload for upload in ledger().uploads() if upload.run == run.name]
    write_text(run.report, render(run_page(gather(run, metrics, stores, uploads))))
    return run.report


def report_all() -> Path:
    """Write the page over all runs and return where it is."""
    from pipeline.report.overview import all_runs_page
    from pipeline.report.page import render

    rows = ledger().rows()
    runs = [RunFolder(SUBMISSIONS, row.run) for row in rows]
    page = all_runs_page(rows, {run.name: f"{run.name}/{run.report.name}" for run in runs if run.report.exists()})
    path = SUBMISSIONS / "index.html"
    write_text(path, render(page))
    return path


def score_test(run: RunFolder, labels: Labels) -> dict[str, Any]:
    """Score the run's predictions of those test images whose labels are known."""
    return score(run.test().of(labels.ids), labels.classes)


def ledger() -> Ledger:
    """Return the book of all runs and uploads."""
    return Ledger(SUBMISSIONS)


def refresh_scores() -> list[Upload]:
    """Fetch the scores that are missing in the ledger."""
    return submitting.refresh(kaggle_api.Kaggle(), ledger())


def compare(one: str, other: str) -> dict[str, Any]:
    """Return how two runs differ in their recipes and scores, and whether that is more than chance (McNemar)."""
    runs = [open_run(one), open_run(other)]
    tables, found = [run.folds() for run in runs], [run.ensemble_out_of_fold() for run in runs]
    ids = np.intersect1d(tables[0].ids, tables[1].ids)
    classes, same_classes = (table.classes_of(ids) for table in tables)
    if not len(ids) or not np.array_equal(classes, same_classes):
        raise RunError(f"{one} and {other} were not trained on the same labelled images and can't be compared")
    right = [predictions.of(ids).argmax(1) == classes for predictions in found]
    return {
        "recipe": differences(runs[0].config().recipe(), runs[1].config().recipe()),
        "accuracy": [score(predictions.of(ids), classes) for predictions in found],
        "test": paired_test(*right),
    }


def _compute(config: Config, name: str, table: FoldTable, folds: Iterable[int], run: RunFolder) -> dict[str, float]:
    """Add up what the trained folds of a member took: operations, and the seconds of their epochs."""
    member, sizes = config.members[name], np.bincount(table.folds)
    return {
        "training_flop": training_flop(member, *(int(sizes.sum() - sizes[fold]) for fold in folds)),
        "training_seconds": sum(epoch["seconds"] for fold in folds for epoch in run.fold(name, fold).history()),
        "prediction_flop_per_image": prediction_flop(member, config.predict.views, 1),
    }


def _check_recipe(config: Config) -> None:
    """Find what is wrong in a recipe before the first image is decoded: all raise ConfigError."""
    if config.log.tensorboard:
        require_tensorboard()
    for member in config.members.values():
        create_model(member.model)
        Augmentation(member.augment)


def _checksums(stores: dict[Split, ImageStore], labels: Labels) -> dict[str, str]:
    """Return what tells one input from another."""
    return {f"{split}_images": store.checksum for split, store in stores.items()} | {"train_labels": labels.checksum()}


def _begin_run(work: Work, stores: dict[Split, ImageStore], machine: Machine) -> FoldTable:
    """Open the run's folder and make the folds, or see that both fit what was begun before."""
    labels = find_source(work.input_dir).labels()
    work.run.begin(
        work.config,
        _checksums(stores, labels),
        {"recipe": work.recipe, **describe_environment(torch.get_num_threads(), machine.device.type, machine.autocast)},
    )
    if not work.run.has_folds:
        config = work.config.folds
        groups = find_groups(stores["train"].images) if config.group_duplicates else np.arange(len(labels.ids))
        seed = derive_seed(work.config.seed, "folds")
        folds = make_folds(labels.classes, groups, num_folds=config.num_folds, seed=seed, class_names=CLASS_NAMES)
        work.run.save_folds(FoldTable(labels.ids, labels.classes, folds, groups))
        num_groups, num_images = count_duplicates(groups)
        log.info("%d folds; %d near-duplicates in %d groups stay together", config.num_folds, num_images, num_groups)
    return work.run.folds()
