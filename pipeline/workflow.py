"""The whole job, from Kaggle's files to a checked submission and a report; `run_all` is its table of contents."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.advice import for_run
from pipeline.cascade import max_prediction_flops, predict_cascade
from pipeline.errors import RunError
from pipeline.evaluate import Evaluation, FoldPredictions, evaluate, score_test_images, validate
from pipeline.executors.executor import TrainingObserver
from pipeline.executors.factory import open_executor
from pipeline.files import write_text
from pipeline.learning.data_workers import dataloader_errors
from pipeline.learning.seeding import derive_seed
from pipeline.ledger import SUBMISSIONS, Ledger
from pipeline.predictions import CascadePredictions
from pipeline.progress import log, progress_display
from pipeline.results import Scores
from pipeline.run_context import RunContext, open_context, prepare_run
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.search_folder import searches_with_report
from pipeline.submission.check import Expected, check
from pipeline.submission.csv_file import write_submission
from pipeline.task import Task
from pipeline.tracking import Tracking, open_tracking

# Reports import their packages themselves: matplotlib and cleanlab take seconds, and few commands draw.


@dataclass(frozen=True)
class JobResult:
    """What a whole job ends with."""

    evaluation: Evaluation
    test: CascadePredictions
    test_scores: Scores | None
    """None where no labels of test images are known."""
    report: Path | None = None


def run_all(context: RunContext, on_result: Callable[[JobResult], None] = lambda _: None) -> JobResult:
    """Prepare, split into folds, train, evaluate, predict, write the submission and the report.

    Every step resumes where an interrupted job ended, and saves what it makes. `on_result` is called before the report
    is written, so that an error in the report hides no result.
    """
    with context.run.lock():
        prepare_run(context)
        with _tracking(context) as tracking:
            predictions = train_folds(context, tracking, then_predict=True)
            evaluation = evaluate(context.run, context.config, context.task, context.fold_table, predictions)
            test = predict_test(context, evaluation)
            save_submission(context, test)
            result = JobResult(evaluation, test, score_test(context, test))
            on_result(result)
            result = replace(result, report=write_report(context, evaluation, test))
            assert evaluation.metrics.ensemble is not None
            tracking.finish_run(evaluation.metrics.ensemble.scores)
            return result


def train(context: RunContext) -> Evaluation:
    """Train the missing folds and refits, or one of the folds, and evaluate all folds that are trained."""
    with context.run.lock():
        prepare_run(context)
        with _tracking(context) as tracking:
            predictions = train_folds(context, tracking)
        return evaluate(context.run, context.config, context.task, context.fold_table, predictions)


def predict(context: RunContext) -> JobResult:
    """Predict the test images with the trained folds and write the submission. Raises RunError if folds are missing."""
    evaluation = validate(context.run, context.task)
    untrained = [*evaluation.metrics.untrained_folds, *evaluation.metrics.untrained_refits]
    _require_trained(context.run, untrained, for_run("train", context.run.name, context.source.folder))
    with context.run.lock():
        prepare_run(context)
        test = predict_test(context, evaluation)
        save_submission(context, test)
    return JobResult(evaluation, test, score_test(context, test))


def report(run: RunFolder, input_dir: Path, task: Task) -> Path:
    """Write a run's report again and return its path. Raises RunError if folds are missing or the input differs."""
    evaluation = validate(run, task)
    _require_trained(run, evaluation.metrics.untrained_folds, "a report needs all of them")
    context = open_context(task, input_dir=input_dir, run_name=run.name, will_train=False)
    run.check_inputs(context.input_checksums())
    return write_report(context, evaluation, run.test_results() if run.has_test_predictions else None)


def train_folds(context: RunContext, observer: TrainingObserver, *, then_predict: bool = False) -> FoldPredictions:
    """Train the missing folds and refits, and return the out-of-fold predictions of all trained folds.

    With `then_predict` the time left that is displayed includes the prediction of the test images.
    """
    trained = {str(job) for job in context.jobs if job.folder.is_trained}
    missing = [job for job in context.jobs if str(job) not in trained and context.only_fold in (None, job.fold)]
    for job in missing:
        for path in job.folder.corrupted():
            log.warning("%s is corrupted or missing; %s is trained again", path, job)
    flops = sum(job.training_flops(context.fold_table) for job in missing)
    if then_predict:
        flops += max_prediction_flops(
            context.test_jobs, context.config.predict.cascade, len(context.stores["test"].ids)
        )
    arrangement = context.arrange(missing)
    missing = [replace(job, num_threads=arrangement.training.get(str(job), 0)) for job in missing]
    slots = context.slots.for_jobs(len(missing))
    with (
        dataloader_errors(),
        context.run.timing("train"),
        progress_display(flops) as display,
        open_executor(context.executor, context.config.machine, context.machine, slots, 0) as executor,
    ):
        results = executor.train(missing, context.stores["train"], context.fold_table, display, observer)
    new = {str(job): result for job, result in zip(missing, results, strict=True)}
    return {
        (job.member_name, job.fold): new[str(job)] if str(job) in new else job.folder.out_of_fold()
        for job in context.fold_jobs()
        if job.fold is not None and (str(job) in new or str(job) in trained)
    }


def predict_test(context: RunContext, evaluation: Evaluation) -> CascadePredictions:
    """Predict the test images with the ensemble of all folds, or of the refits, and save the predictions."""
    assert evaluation.ensemble is not None
    assert evaluation.ensemble_predictions is not None
    jobs, cascade, store = context.test_jobs, context.config.predict.cascade, context.stores["test"]
    num_threads = context.arrange([]).prediction
    with (
        context.run.timing("predict"),
        progress_display(max_prediction_flops(jobs, cascade, len(store.ids))) as display,
        open_executor(
            context.executor, context.config.machine, context.machine, context.slots, num_threads
        ) as executor,
    ):
        test = predict_cascade(
            jobs,
            evaluation.ensemble,
            store,
            executor,
            display,
            config=cascade,
            seed=derive_seed(context.config.seed, "sample"),
            fold_jobs=context.fold_jobs(),
            out_of_fold=evaluation.ensemble_predictions,
        )
    context.run.save_test_predictions(test)
    return test


def save_submission(context: RunContext, test: CascadePredictions) -> None:
    """Write submission.csv, and check the file that was written."""
    run, ids, labels = context.run, test.predictions.ids, test.predictions.labels
    write_submission(run.submission, ids, labels, context.task)
    expected = Expected.of_run(run.name, ids, labels, context.source.folder)
    problems = check(run.submission, expected, context.task)
    if problems:
        raise RunError(f"{run.submission} does not match the predictions: {'; '.join(problems)}")


def score_test(context: RunContext, test: CascadePredictions) -> Scores | None:
    """Score the test images whose labels are known, if there are any."""
    return None if context.test_labels is None else score_test_images(test.predictions, context.test_labels)


def write_report(context: RunContext, evaluation: Evaluation, test: CascadePredictions | None) -> Path:
    """Write a run's report.html and return its path."""
    from pipeline.report.attribution import attribute_with
    from pipeline.report.page import render
    from pipeline.report.run_data import collect
    from pipeline.report.run_page import run_page

    uploads = [entry for entry in Ledger(SUBMISSIONS).uploads() if entry.run == context.run.name]
    assert evaluation.ensemble is not None
    attribute = attribute_with(
        list(context.fold_jobs()), evaluation.ensemble, evaluation.table, context.stores["train"], context.machine
    )
    data = collect(context.run, context.task, context.stores, evaluation, uploads, test, attribute)
    write_text(context.run.report, render(run_page(data)))
    return context.run.report


def report_all_runs() -> Path:
    """Write the page over all runs and return its path."""
    from pipeline.report.overview import all_runs_page
    from pipeline.report.page import render

    rows = Ledger(SUBMISSIONS).rows()
    runs = [RunFolder(SUBMISSIONS, row.run) for row in rows]
    reports = {run.name: f"{run.name}/{run.report.name}" for run in runs if run.report.exists()}
    searches = {f"{search.name}/{search.report.name}": search.load_settings() for search in searches_with_report()}
    page = all_runs_page(rows, reports, searches)
    path = SUBMISSIONS / "index.html"
    write_text(path, render(page))
    return path


def _tracking(context: RunContext) -> AbstractContextManager[Tracking]:
    return open_tracking(context.run, context.config, context.task, context.fold_table)


def _require_trained(run: RunFolder, untrained: Sequence[str], remedy: str) -> None:
    if untrained:
        raise RunError(f"run {run.name}: not trained yet: {', '.join(untrained)}; {remedy}")
