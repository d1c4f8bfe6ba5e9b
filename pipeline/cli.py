"""The commands. Each reads its options, calls a stage, and prints where the results are."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.errors import UserError
from pipeline.progress import set_up_logging
from pipeline.config_files import DEFAULT_CONFIG, CONFIGS, load_config
from pipeline.ledger import SUBMISSIONS
from pipeline.console import describe, format_comparison, format_metrics, format_upload

if TYPE_CHECKING:
    from pipeline.workflow import Work

# The commands import the stages themselves: torch and timm take seconds, and --help should not.

INPUT = Path("input")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130  # the status with which typer ends a command after Ctrl-C

app = typer.Typer(
    help="A pipeline for Kaggle's CIFAR-10 competition. Without a command: the whole job (`all`).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeOption = Annotated[
    Path | None, typer.Option("--config", help="The recipe, a YAML file; not given: the run's own, else quick.yaml.")
]
InputOption = Annotated[
    Path, typer.Option("--input", help="The folder with Kaggle's files, or with torchvision's cifar-10-batches-py.")
]
RunOption = Annotated[
    str | None,
    typer.Option("--run", help="The run's name, a folder in submissions/; not given: the recipe's name."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value of the recipe, for example folds.num_folds=3; may be repeated."),
]


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only, no progress.")]
ExecutorOption = Annotated[
    Literal["local", "ray"], typer.Option("--executor", help="ExecutorOptions jobs run: here, or on a Ray cluster.")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="The Ray cluster: auto, or HOST:PORT; not given: one is started on this machine."),
]


@app.callback(invoke_without_command=True)
def without_command(context: typer.Context, quiet: QuietOption = False) -> None:
    """Run the whole job when no command is given."""
    set_up_logging(quiet=quiet)
    if context.invoked_subcommand is None:
        all_()


@app.command("all")
def all_(
    recipe: RecipeOption = None,
    input_dir: InputOption = INPUT,
    run: RunOption = None,
    overrides: SetOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """The whole job: prepare, train, validate, predict, report. Given again after a stop, it goes on."""
    from pipeline import workflow

    _be_quiet(quiet)
    work = stages.open_work(recipe, input_dir, run, overrides or (), executor, address)
    stages.train(work, then_predict=True)
    _predict(work)
    _report(work)


@app.command()
def demo(
    run: RunOption = "demo",
    overrides: SetOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """The whole job on a small drawn competition: no download, about a minute."""
    from pipeline import workflow

    _be_quiet(quiet)
    print(
        "DEMO: the images are drawn by program. It shows that the whole job works here;\n"
        "its accuracy says nothing about CIFAR-10. The real job: python run.py download, then python run.py\n",
        flush=True,
    )
    folder, labels = stages.draw_demo(INPUT)
    work = stages.open_work(CONFIGS / "demo.yaml", folder, run, overrides or (), executor, address)
    stages.train(work, then_predict=True)
    _predict(work)
    print(f"accuracy on the drawn test images that count: {describe(stages.score_test(work.run, labels))}")
    _report(work)


@app.command()
def download(input_dir: InputOption = INPUT) -> None:
    """Fetch Kaggle's files into the input folder with the kaggle client."""
    from pipeline import workflow

    print(stages.download(input_dir))


@app.command()
def prepare(
    recipe: RecipeOption = None,
    input_dir: InputOption = INPUT,
    overrides: SetOption = None,
    again: Annotated[bool, typer.Option("--again", help="Decode again, even if it is done.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Decode the images once, into .cache in the input folder."""
    from pipeline.data.prepare import prepare as decode

    _be_quiet(quiet)
    config = load_config(recipe or DEFAULT_CONFIG, overrides or ())
    for split, store in decode(input_dir, config.images.cache_dir, again=again).items():
        print(f"{split}: {len(store.ids):,} images in {store.folder}")


@app.command()
def train(
    recipe: RecipeOption = None,
    input_dir: InputOption = INPUT,
    run: RunOption = None,
    overrides: SetOption = None,
    fold: Annotated[int | None, typer.Option(help="Only this fold, from 0: a quick check of a recipe.")] = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train what is not trained yet, and judge it on the images held out."""
    from pipeline import workflow

    _be_quiet(quiet)
    work = stages.open_work(recipe, input_dir, run, overrides or (), executor, address)
    stages.train(work, only_fold=fold)
    print(format_metrics(stages.validate(work.run)))
    print(f"run: {work.run.path}")


@app.command()
def validate(run: RunOption = None) -> None:
    """Print a run's scores: per fold, out of fold, per class, confusion. Write metrics.json."""
    from pipeline import workflow

    folder = stages.open_run(run)
    print(format_metrics(stages.validate(folder)))
    print(f"metrics: {folder.path / 'metrics.json'}")


@app.command()
def predict(
    recipe: RecipeOption = None,
    input_dir: InputOption = INPUT,
    run: RunOption = None,
    overrides: SetOption = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    quiet: QuietOption = False,
) -> None:
    """Predict the test images with every fold, blend, and write a checked submission.csv."""
    from pipeline import workflow

    _be_quiet(quiet)
    _predict(stages.open_work(recipe, input_dir, run, overrides or (), executor, address))


@app.command()
def report(
    run: RunOption = None,
    input_dir: InputOption = INPUT,
    every: Annotated[bool, typer.Option("--all", help="One page over all runs, submissions/index.html.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a run's report.html: scores, curves, confusion, errors, doubtful labels, test images."""
    from pipeline import workflow

    _be_quiet(quiet)
    print(stages.report_all() if every else stages.report(stages.open_run(run), input_dir))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A submission, for example submissions/quick/submission.csv.")],
    input_dir: InputOption = INPUT,
) -> None:
    """Would Kaggle take this file? Tells every way in which it would not."""
    from pipeline.submission import check

    problems, against = checking.check(file, input_dir)
    if problems:
        raise UserError(f"{file} would be refused (checked against {against}):\n  " + "\n  ".join(problems))
    print(f"{file}: good to upload (checked against {against})")


@app.command()
def submit(
    file: Annotated[Path | None, typer.Argument(help="A submission; not given: the run's.")] = None,
    run: RunOption = None,
    input_dir: InputOption = INPUT,
    message: Annotated[str | None, typer.Option(help="Not given: run, recipe and cross-validation.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the score.")] = True,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to wait for the score.")] = 900,
    again: Annotated[bool, typer.Option("--again", help="Upload a file that was uploaded before.")] = False,
) -> None:
    """Check a submission, upload it to Kaggle once, wait for its score, and write it in the ledger."""
    from pipeline import checking, stages

    upload, cv = checking.submit(
        file or stages.open_run(run).submission,
        stages.ledger(),
        input_dir,
        message=message,
        again=again,
        wait_seconds=seconds if wait else 0.0,
    )
    print(format_upload(upload, cv))


runs_app = typer.Typer(help="Every run with its cross-validation and its scores on Kaggle.", rich_markup_mode=None)
app.add_typer(runs_app, name="runs")


@runs_app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sort: Annotated[str, typer.Option(help="By which column; the best, or the newest, comes first.")] = "date",
    only: Annotated[str, typer.Option("--filter", help="Only runs whose name, recipe or members hold this text.")] = "",
    refresh: Annotated[bool, typer.Option("--refresh", help="First fetch scores that are missing.")] = False,
) -> None:
    """The ledger: every run with its recipe, cross-validation, time, and scores."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.ledger import Ledger
    from pipeline.runs_table import print_runs, sorted_runs

    if refresh:
        from pipeline import workflow

        for upload in stages.refresh_scores():
            print(format_upload(upload, None), file=sys.stderr)
    print_runs(sorted_runs(Ledger(SUBMISSIONS).rows(), sort, only), as_csv=as_csv, as_json=as_json)


@runs_app.command()
def diff(one: str, other: str) -> None:
    """What differs between two runs: their recipes, their scores, and whether that is more than chance."""
    from pipeline import workflow

    print(format_comparison(one, other, stages.compare(one, other)))


def _interrupt(_number: int, _frame: object) -> None:
    """End on SIGTERM, which schedulers and shutdowns send, as on Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Run a command; what the user can mend is one clear text on stderr and status 1."""
    # Threads of OpenMP that wait should spin for a moment only: beside another busy process they would take most of
    # what the cores have (configs/LOG.md). It is read when torch is loaded, so it has to be set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # torch wants a temporary file when it is loaded, and tempfile tells a full disk in its own way.
        if error.errno not in NO_ROOM and "No usable temporary directory" not in str(error):
            raise
        print(f"error: no room on the disk ({error}); make room, then give the same command again", file=sys.stderr)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("stopped; what was finished is saved, the same command goes on from there", file=sys.stderr)
        raise


def _be_quiet(quiet: bool) -> None:
    """Take the option behind the command as well as in front of it."""
    if quiet:
        set_up_logging(quiet=True)


def _predict(work: "Work") -> None:
    """Write the submission and print the run's scores and what to do next."""
    from pipeline import checking, stages

    test_scores = stages.predict_test(work)
    metrics: dict[str, Any] = work.run.load_json("metrics.json")
    print(format_metrics(metrics))
    if test_scores is not None:
        print(f"test images: {describe(test_scores)}")
    print(f"run: {work.run.path}")
    print(f"submission, checked: {work.run.submission}")
    print(checking.upload_instructions(work.run, metrics))


def _report(work: "Work") -> None:
    from pipeline import workflow

    print(f"report: {stages.report(work.run, work.input_dir)}")
