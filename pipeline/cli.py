"""The commands: each parses its options, calls the workflow, and prints the results."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli_options import (
    INPUT,
    ConfigOption,
    InputOption,
    QuietOption,
    RunOption,
    RunOptions,
    expand_home_option,
    takes_run_options,
)
from pipeline.config_files import DEFAULT_CONFIG, load_config
from pipeline.console import (
    format_comparison,
    format_export,
    format_metrics,
    format_scores,
    format_upload,
    print_classifications,
    print_runs,
    sorted_runs,
)
from pipeline.errors import UserError
from pipeline.ledger import SUBMISSIONS, Ledger
from pipeline.process import run_command
from pipeline.progress import set_up_logging
from pipeline.results import FileFormat, Scores
from pipeline.task import CIFAR10, Task
from pipeline.tuning.summary import format_search

if TYPE_CHECKING:
    from pipeline.run_context import RunContext
    from pipeline.runs.run_folder import RunFolder
    from pipeline.workflow import JobResult

# Commands import the workflow themselves: torch and timm take seconds, and --help should not.

app = typer.Typer(
    help="A pipeline for Kaggle's CIFAR-10 competition. Without a command: the whole job (`all`).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def without_command(context: typer.Context, quiet: QuietOption = False) -> None:
    """Run the whole job without a command."""
    set_up_logging(quiet=quiet)
    context.obj = context.obj or CIFAR10
    if context.invoked_subcommand is None:
        _run_all(RunOptions().context(context.obj))


@app.command("all")
@takes_run_options
def all_(context: typer.Context, options: RunOptions) -> None:
    """The whole job: prepare, train, evaluate, predict, report. Resumes if interrupted."""
    _run_all(options.context(context.obj))


@app.command()
@takes_run_options
def demo(context: typer.Context, options: RunOptions) -> None:
    """The whole job on a small synthetic dataset: no download, about a minute."""
    print(
        "DEMO: synthetic images. It shows that the whole job works here; its accuracy is not comparable with that on\n"
        "real images. The real job: python run.py download, then python run.py\n",
        flush=True,
    )
    _run_all(options.demo_context(context.obj))


@app.command()
def download(
    context: typer.Context,
    input_dir: InputOption = INPUT,
    again: Annotated[bool, typer.Option("--again", help="Download again, even if the file is there.")] = False,
) -> None:
    """Download Kaggle's files into the input folder, unless they are there and their checksums are right."""
    from pipeline.submission.kaggle_client import KaggleClient

    print(KaggleClient(context.obj).download(input_dir, again=again))


@app.command()
def prepare(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", help="YAML file, for its cache folder.")] = DEFAULT_CONFIG,
    input_dir: InputOption = INPUT,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a value of the config.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Decode again, even if the cache is complete.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Decode the images once, into .cache in the input folder."""
    from pipeline.data.image_cache import cache_folder
    from pipeline.data.prepare import prepare as decode
    from pipeline.data.source import find_source

    if quiet:
        set_up_logging(quiet=True)
    cache_dir = load_config(config, overrides or ()).images.cache_dir
    source = find_source(input_dir, context.obj)
    for split, store in decode(source, cache_folder(cache_dir, input_dir), again=again).items():
        print(f"{split}: {len(store.ids):,} images in {store.folder}")


@app.command()
@takes_run_options
def train(
    context: typer.Context,
    options: RunOptions,
    fold: Annotated[int | None, typer.Option(help="Train only this fold, from 0: a quick check of a config.")] = None,
) -> None:
    """Train the missing folds and refits, and evaluate the folds on their validation images."""
    job = options.context(context.obj, fold=fold)
    from pipeline import workflow

    print(format_metrics(workflow.train(job).metrics))
    print(f"run: {job.run.path}")


@app.command()
@takes_run_options
def tune(
    context: typer.Context,
    options: RunOptions,
    space: Annotated[
        Path,
        typer.Option(
            "--space", help="YAML file: config keys, each with its range or choices.", callback=expand_home_option
        ),
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Complete and pruned trials in all; default: 20, with --minutes no limit.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Start no more trials after this time.")] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="A fold, from 0, of each trial; repeatable; default: 0.")
    ] = None,
    member: Annotated[str | None, typer.Option(help="The member of the config that the trials train.")] = None,
    objective: Annotated[
        Literal["accuracy", "log_loss"], typer.Option(help="Of the validation images, with the config's TTA.")
    ] = "accuracy",
    pruner: Annotated[
        Literal["median", "hyperband", "none"],
        typer.Option(help="What stops trials that are worse than others after the same epoch."),
    ] = "median",
) -> None:
    """Search the hyperparameters of a config's member: many trials on one fold, the worst stopped early.

    Resumes if interrupted; several processes with the same command share one search.
    """
    search = options.search(
        context.obj,
        space=space,
        trials=trials,
        minutes=minutes,
        folds=fold or (0,),
        member=member,
        objective=objective,
        pruner=pruner,
    )
    from pipeline.tuning.tune import tune as run_search

    result = run_search(search)
    print(format_search(result))
    if result.ranked:
        print(f"best config: {search.folder.best}")
    print(f"report: {search.folder.report}")


@app.command()
def validate(context: typer.Context, run: RunOption = None) -> None:
    """Print a run's scores: per fold, out of fold, per class, confusion matrix. Writes metrics.json."""
    from pipeline.evaluate import validate as evaluate_run
    from pipeline.runs.run_folder import open_run

    folder = open_run(run)
    print(format_metrics(evaluate_run(folder, context.obj).metrics))
    print(f"metrics: {folder.metrics_path}")


@app.command()
@takes_run_options
def predict(context: typer.Context, options: RunOptions) -> None:
    """Predict the test images with the fold models, the refits, or both, and write a checked submission.csv."""
    job = options.context(context.obj, will_train=False)
    from pipeline import workflow

    _print_result(job, workflow.predict(job))


@app.command()
def report(
    context: typer.Context,
    run: RunOption = None,
    input_dir: InputOption = INPUT,
    every: Annotated[bool, typer.Option("--all", help="One page over all runs, submissions/index.html.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a run's report.html: scores, curves, confusion matrix, errors, label issues, test images."""
    from pipeline import workflow
    from pipeline.runs.run_folder import open_run

    if quiet:
        set_up_logging(quiet=True)
    print(workflow.report_all_runs() if every else workflow.report(open_run(run), input_dir, context.obj))


@app.command()
def export(
    context: typer.Context,
    run: RunOption = None,
    file_format: Annotated[
        FileFormat | None, typer.Option("--format", help="Default: by the ending of --output, else onnx.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="One model alone, MEMBER/fold_N or MEMBER/refit_N; default: the ensemble.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Default: model.onnx, model.pt or model.safetensors in the run's folder.", callback=expand_home_option
        ),
    ] = None,
    input_dir: InputOption = INPUT,
    quiet: QuietOption = False,
) -> None:
    """Write the models that predict the test images to one file: uint8 images in, probabilities out.

    Normalisation, resize, TTA and the weighted mean are part of the file, and its metadata has the class names. The
    file is checked: its probabilities are those of the pipeline, in float32, on up to 1,000 training images of --input.
    """
    if quiet:
        set_up_logging(quiet=True)
    from pipeline.export import export as export_models
    from pipeline.export import format_of
    from pipeline.runs.run_folder import open_run
    from pipeline.trained_ensemble import open_ensemble, open_model

    folder = open_run(run)
    trained = open_ensemble(folder, context.obj) if model is None else open_model(folder, context.obj, model)
    print(format_export(export_models(trained, file_format or format_of(output), output, input_dir)))


@app.command()
def classify(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Image files, and folders of them with all subfolders.")
    ],
    run: RunOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the class of images of any size and format, as the run's full ensemble with all TTA views predicts it.

    The square in the middle of each image is resized to the size of the run's images. EXIF orientation is applied,
    transparency becomes white, and of an animation the first frame is taken. Each file that can't be read is one line
    on stderr; the others are classified, and the exit status is 1.
    """
    from pipeline.classify import classify as classify_images
    from pipeline.runs.run_folder import open_run
    from pipeline.trained_ensemble import open_ensemble

    failures = 0

    def on_failure(text: str) -> None:
        nonlocal failures
        failures += 1
        print(text, file=sys.stderr)

    rows = classify_images(open_ensemble(open_run(run), context.obj), paths, on_failure)
    print_classifications(rows, as_csv=as_csv, as_json=as_json)
    if failures:
        raise typer.Exit(1)


@app.command()
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A submission, for example submissions/quick/submission.csv.")],
    input_dir: InputOption = INPUT,
) -> None:
    """Validate a submission file and list every problem."""
    from pipeline.submission.check import check as find_problems
    from pipeline.submit import expected_submission

    expected = expected_submission(file, input_dir, context.obj)
    problems = find_problems(file, expected, context.obj)
    if problems:
        raise UserError(f"{file} would be rejected (checked against {expected}):\n  " + "\n  ".join(problems))
    print(f"{file}: valid (checked against {expected})")


@app.command()
def submit(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A submission; default: the run's.")] = None,
    run: RunOption = None,
    input_dir: InputOption = INPUT,
    message: Annotated[str | None, typer.Option(help="Default: run, config and cross-validation.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the score.")] = True,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86_400, help="How long to wait for it.")] = 900,
    again: Annotated[bool, typer.Option("--again", help="Upload a file that was uploaded before.")] = False,
) -> None:
    """Check a submission, upload it to Kaggle once, wait for its score, and record it in the ledger."""
    from pipeline.runs.run_folder import open_run
    from pipeline.submit import submit as submit_file

    if file is not None and run is not None:
        raise UserError(f"both the file {file} and --run {run} are given, expected one of them")
    upload, scores = submit_file(
        file or open_run(run).existing_submission(),
        input_dir,
        context.obj,
        message=message,
        again=again,
        wait_seconds=seconds if wait else 0.0,
    )
    print(format_upload(upload, scores.accuracy if scores else None))


@app.command()
def remote(
    context: typer.Context,
    config: ConfigOption = None,
    run: RunOption = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a value of the config.")] = None,
    accelerator: Annotated[str, typer.Option(help="Kaggle's name of a GPU; none: a CPU.")] = "NvidiaTeslaT4",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the kernel, and fetch the run.")] = True,
    fetch: Annotated[bool, typer.Option("--fetch", help="Only fetch the run of a kernel that is complete.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Push a kernel that failed or was cancelled again.")] = False,
    minutes: Annotated[
        float, typer.Option(min=0.01, max=720, help="Minutes after which a session stops itself; the next one resumes.")
    ] = 690,
    offline: Annotated[bool, typer.Option("--offline", help="The kernel gets no internet.")] = False,
    dataset: Annotated[list[str] | None, typer.Option(help="OWNER/NAME of a dataset to mount; repeatable.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="OWNER/NAME/FRAMEWORK/VARIATION/VERSION of a model to mount; repeatable.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """The whole job in a Kaggle kernel, on Kaggle's GPUs; fetches the run into submissions/. Resumes if interrupted.

    Tested against a local server only: nobody has tried it on Kaggle itself yet.
    """
    from pipeline.remote.remote import RemoteOptions, fetch_remote, run_remote
    from pipeline.run_config import find_config
    from pipeline.runs.run_folder import open_run
    from pipeline.submission.kaggle_kernels import KernelClient

    if quiet:
        set_up_logging(quiet=True)
    client = KernelClient(context.obj)
    if fetch:
        name = config.stem if config is not None and run is None else run
        _print_fetched(fetch_remote(context.obj, open_run(name), client), context.obj)
        return
    options = RemoteOptions(
        accelerator, minutes, not offline, tuple(dataset or ()), tuple(model or ()), wait=wait, again=again
    )
    wanted = find_config(config, run, overrides or ())
    is_config_given = config is not None or bool(overrides)
    fetched = run_remote(context.obj, wanted, options, client, is_config_given=is_config_given)
    if fetched is not None:
        _print_fetched(fetched, context.obj)


runs_app = typer.Typer(help="Every run with its cross-validation and its scores on Kaggle.", rich_markup_mode=None)
app.add_typer(runs_app, name="runs")


@runs_app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sort: Annotated[str, typer.Option(help="Sort by this column; the best, or the newest, comes first.")] = "date",
    text: Annotated[str, typer.Option("--filter", help="Only runs whose name, config or members contain this.")] = "",
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch missing scores first.")] = False,
) -> None:
    """The ledger: every run with its config, cross-validation, time and scores."""
    if context.invoked_subcommand is not None:
        return
    if refresh:
        from pipeline.submit import refresh_scores

        for upload in refresh_scores(context.obj):
            print(format_upload(upload, None), file=sys.stderr)
    print_runs(sorted_runs(Ledger(SUBMISSIONS).rows(), sort, text), as_csv=as_csv, as_json=as_json)


@runs_app.command()
def diff(first: str, second: str) -> None:
    """Compare two runs: configs, scores, and whether the difference is statistically significant."""
    from pipeline.evaluate import compare_runs
    from pipeline.runs.run_folder import open_run

    print(format_comparison(first, second, compare_runs(open_run(first), open_run(second))))


def main(task: Task = CIFAR10) -> None:
    """Run a command and exit; a user error is printed without a traceback, status 1."""
    # OpenMP threads that wait should spin only briefly: beside another busy process they would take most of the cores'
    # time (docs/experiments.md). It is read when torch is loaded, so it must be set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(run_command(partial(app, obj=task)))


def _run_all(job: "RunContext") -> None:
    from pipeline import workflow

    result = workflow.run_all(job, lambda result: _print_result(job, result))
    print(f"report: {result.report}")


def _print_fetched(run: "RunFolder", task: Task) -> None:
    """Print the scores of a run that was fetched, and what to do next."""
    from pipeline.submit import ensemble_scores

    run.existing_submission()
    print(format_metrics(run.metrics()))
    _print_submission(run, ensemble_scores(run), len(run.test_predictions().ids), task)
    print(f"report: {run.report}")


def _print_result(job: "RunContext", result: "JobResult") -> None:
    """Print the run's scores and what to do next."""
    metrics = result.evaluation.metrics
    print(format_metrics(metrics))
    if result.test_scores is not None:
        print(f"scored test images: {format_scores(result.test_scores)}")
    scores = metrics.ensemble.scores if metrics.ensemble else None
    _print_submission(job.run, scores, len(result.test.predictions.ids), job.task)


def _print_submission(run: "RunFolder", scores: Scores | None, num_rows: int, task: Task) -> None:
    """Print where a run and its submission are, and how to upload it."""
    from pipeline.submission.check import upload_instructions
    from pipeline.submit import message_of

    print(f"run: {run.path}")
    print(f"submission, checked: {run.submission}")
    print(upload_instructions(run.name, run.submission, message_of(run, scores), num_rows, task))
