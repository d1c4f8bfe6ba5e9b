"""The recipe: prepare, train, validate, predict, ensemble. The order is here, the logic in the rooms."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import submitting
from pipeline.competition import kaggle_api
from pipeline.competition.drawn import draw_once
from pipeline.competition.facts import CLASS_NAMES, NUM_TEST, Split
from pipeline.competition.images import ImageStore
from pipeline.competition.labels import Labels
from pipeline.competition.prepare import prepare
from pipeline.competition.source import find_source, search_source
from pipeline.competition.submission import check_labels, check_submission, write_submission
from pipeline.config import Config
from pipeline.errors import InputError, RunError
from pipeline.files import write_text
from pipeline.jobs import FoldJob
from pipeline.learning.augment import Augmentation
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.duplicates import count_duplicates, find_groups
from pipeline.learning.ensemble import find_temperature, find_weights
from pipeline.learning.flops import prediction_flop, training_flop
from pipeline.learning.folds import make_folds
from pipeline.learning.metrics import paired_test, score, score_by_class
from pipeline.learning.models import create_model
from pipeline.learning.seeding import derive_seed, fold_seed
from pipeline.predictions import blend, join
from pipeline.progress import live_view, log
from pipeline.recipes import DEFAULT_RECIPE, differences, load_config, override_config
from pipeline.report.facts import gather
from pipeline.report.overview import all_runs_page
from pipeline.report.page import render
from pipeline.report.run_page import run_page
from pipeline.rounds import predict_in_rounds, prediction_work
from pipeline.runs.environment import describe_environment
from pipeline.runs.event_log import check_tensorboard
from pipeline.runs.folder import FoldTable, RunFolder
from pipeline.runs.ledger import SUBMISSIONS, Ledger, Upload


@dataclass(frozen=True)
class Work:
    """A recipe, the folder of the input, and the folder of the run."""

    config: Config
    input_dir: Path
    run: RunFolder
    recipe: str
    """The recipe's name, for the ledger."""

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


def open_work(recipe: Path | None, input_dir: Path, run: str | None, overrides: Iterable[str] = ()) -> Work:
    """Put a command's options together. A run that is there goes on with its own recipe unless another is named."""
    folder = open_run(run or (recipe or DEFAULT_RECIPE).stem)
    if recipe is None and folder.exists:
        return Work(override_config(folder.config(), overrides), input_dir, folder, folder.name)
    return Work(load_config(recipe or DEFAULT_RECIPE, overrides), input_dir, folder, (recipe or DEFAULT_RECIPE).stem)


def open_run(name: str | None) -> RunFolder:
    """Return the folder of a run, the default recipe's if there is no name."""
    return RunFolder(SUBMISSIONS, name or DEFAULT_RECIPE.stem)


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
        to_do = sum(job.training_work(table) for job in jobs)
        if then_predict:
            to_do += prediction_work(list(work.fold_jobs()), work.config.predict.selective, len(stores["test"].ids))
        with work.run.timing("train"), live_view(to_do) as view:
            for job in jobs:
                job.train(machine, stores["train"], table, view)


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
        to_do = prediction_work(jobs, selective, len(stores["test"].ids))
        with work.run.timing("predict"), live_view(to_do) as view:
            found = predict_in_rounds(
                jobs,
                work.run.load_json("ensemble.json"),
                stores["test"],
                machine,
                view,
                selective=selective,
                seed=derive_seed(work.config.seed, "sample"),
                held_out=work.run.blended_out_of_fold(),
            )
        work.run.save_test(found.blended, found.passes)
        work.run.save_json("passes.json", found.account)
        ids = stores["test"].ids
        write_submission(work.run.submission, ids, found.blended.probabilities.argmax(1))
    problems, _ = check(work.run.submission, work.input_dir)
    if problems:
        raise RunError(f"{work.run.submission} is not what was written: {'; '.join(problems)}")
    labels = source.test_labels()
    return None if labels is None else score_test(work.run, labels)


def report(run: RunFolder, input_dir: Path) -> Path:
    """Write a run's report.html and return where it is. Raises RunError before all folds are trained."""
    metrics = validate(run)
    stores = prepare(input_dir, run.config().images.cache_dir)
    run.check_input(_checksums(stores, find_source(input_dir).labels()))
    uploads = [upload for upload in ledger().uploads() if upload.run == run.name]
    write_text(run.report, render(run_page(gather(run, metrics, stores, uploads))))
    return run.report


def report_all() -> Path:
    """Write the page over all runs and return where it is."""
    rows = ledger().rows()
    runs = [RunFolder(SUBMISSIONS, row.run) for row in rows]
    page = all_runs_page(rows, {run.name: f"{run.name}/{run.report.name}" for run in runs if run.report.exists()})
    path = SUBMISSIONS / "index.html"
    write_text(path, render(page))
    return path


def score_test(run: RunFolder, labels: Labels) -> dict[str, Any]:
    """Score the run's predictions of those test images whose labels are known."""
    return score(run.test().of(labels.ids), labels.classes)


def check(file: Path, input_dir: Path) -> tuple[list[str], str]:
    """Return all that is wrong with a submission, and which test ids it was held against.

    The file in a run's folder also has to say what the run predicted.
    """
    ids, origin = _expected_ids(file, input_dir)
    run = _run_of(file)
    problems = check_submission(file, ids)
    if run is not None and not problems and file.name == run.submission.name:
        test = run.test()
        problems = check_labels(file, test.ids, test.probabilities.argmax(1))
    return problems, f"{origin}, {len(ids):,}"


def _expected_ids(file: Path, input_dir: Path) -> tuple[NDArray[np.int64], str]:
    """Return the ids that a submission should have: those of its run, else of the input, else Kaggle's."""
    run = _run_of(file)
    if run is not None:
        return run.test().ids, f"the test images of the run {run.name}"
    source = search_source(input_dir)
    if source is not None:
        return source.ids("test"), f"the test images of {source.name}"
    return np.arange(1, NUM_TEST + 1), "Kaggle's test images, as there is no input"


def _run_of(file: Path) -> RunFolder | None:
    """Return the run in whose folder a submission lies."""
    return RunFolder(file.parent.parent, file.parent.name) if (file.parent / "config.yaml").exists() else None


def _wrong_size(num_rows: int) -> str:
    """Say why Kaggle would not take a whole submission of so many rows; nothing if it would."""
    if num_rows == NUM_TEST:
        return ""
    return f"it has {num_rows:,} rows, Kaggle expects one for each of {NUM_TEST:,} test images"


def how_to_upload(run: RunFolder, metrics: dict[str, Any]) -> str:
    """Return the line that uploads a run's submission with the kaggle client, or why Kaggle would not take it."""
    wrong_size = _wrong_size(len(run.test().ids))
    if wrong_size:
        return f"not for upload: {wrong_size}"
    by_client = kaggle_api.upload_command(run.submission, _upload_message(run, metrics))
    return f"upload it: python run.py submit --run {run.name}\nor by the client alone: {by_client}"


def submit(
    file: Path | None, run: str | None, input_dir: Path, *, message: str | None, again: bool, wait_seconds: float
) -> tuple[Upload, float | None]:
    """Check a submission and upload it; return what became of it, and its run's out-of-fold accuracy."""
    file = file or open_run(run).submission
    folder = _run_of(file)
    problems, against = check(file, input_dir)
    wrong_size = _wrong_size(len(_expected_ids(file, input_dir)[0]))
    problems = problems or ([wrong_size] if wrong_size else [])
    if problems:
        raise InputError(f"{file} was not uploaded (checked against {against}):\n  " + "\n  ".join(problems))
    metrics = folder.load_json("metrics.json") if folder else None
    upload = submitting.submit(
        kaggle_api.Kaggle(),
        ledger(),
        file,
        run=folder.name if folder else "",
        message=message or _upload_message(folder, metrics),
        again=again,
        wait_seconds=wait_seconds,
    )
    return upload, metrics["blend"]["accuracy"] if metrics else None


def ledger() -> Ledger:
    """Return the book of all runs and uploads."""
    return Ledger(SUBMISSIONS)


def refresh_scores() -> list[Upload]:
    """Fetch the scores that are missing in the ledger."""
    return submitting.refresh(kaggle_api.Kaggle(), ledger())


def compare(one: str, other: str) -> dict[str, Any]:
    """Return how two runs differ in their recipes and scores, and whether that is more than chance (McNemar)."""
    runs = [open_run(one), open_run(other)]
    tables, found = [run.folds() for run in runs], [run.blended_out_of_fold() for run in runs]
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


def _upload_message(run: RunFolder | None, metrics: dict[str, Any] | None) -> str:
    if run is None or metrics is None:
        return "uploaded by hand"
    low, high = metrics["blend"]["accuracy_95"]
    recipe = run.load_json("environment.json").get("recipe", "")
    return f"{run.name}: {recipe}, CV {metrics['blend']['accuracy']:.4f} ({low:.4f} to {high:.4f})"


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
        check_tensorboard()
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
