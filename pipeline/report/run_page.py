"""RunData -> the report of a run: the headline, and the sections in their order."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from pipeline.report import galleries, scores
from pipeline.report.blocks import Block, Code, Page, Section, Stat, Table, Text
from pipeline.report.confusion_matrix import confusion_matrix_section
from pipeline.report.run_data import RunData
from pipeline.results import Accuracy


def run_page(data: RunData) -> Page:
    """Return the report of a run."""
    sections: Sequence[Callable[[RunData], Section]] = (
        scores.folds_section,
        scores.learning_curves_section,
        confusion_matrix_section,
        scores.class_accuracy_section,
        galleries.training_images_section,
        galleries.confident_errors_section,
        galleries.label_issues_section,
        galleries.near_duplicates_section,
        scores.calibration_section,
        scores.ensemble_members_section,
        galleries.test_images_section,
        reproduce_section,
    )
    origin = {
        "config": data.environment.get("config"),
        "pretrained members:": ", ".join(data.environment.get("pretrained", ())),
        "started": data.environment.get("date", "").replace("T", " "),
    }
    return Page(
        title=data.name,
        subtitle=", ".join(f"{name} {value}" for name, value in origin.items() if value),
        stats=headline(data),
        sections=[make_section(data) for make_section in sections],
    )


def headline(data: RunData) -> list[Stat]:
    """Return the scores, the expected score on Kaggle, and the cost of the training."""
    ensemble, members = data.ensemble_metrics.scores, data.evaluation.metrics.members.values()
    stats = [
        Stat("out-of-fold accuracy", f"{ensemble.accuracy:.4f}", f"measured; {_interval(ensemble)}"),
        Stat("expected on Kaggle", f"about {ensemble.accuracy:.3f}", f"or higher: {_why_higher(data)}"),
    ]
    kaggle_scores = [upload.scores for upload in data.uploads if upload.scores]
    for name in ("public", "private"):
        values = [known[name] for known in kaggle_scores if name in known]
        if values:
            difference = f"{max(values) - ensemble.accuracy:+.4f} from out of fold"
            stats.append(Stat(f"{name} score", f"{max(values):.4f}", difference))
    if not kaggle_scores:
        stats.append(Stat("Kaggle score", "unknown", "python run.py submit, or runs --refresh"))
    stats.append(Stat("log loss", f"{ensemble.log_loss:.4f}", "out of fold, with temperature scaling"))
    seconds = sum(member.compute.training_seconds for member in members)
    flops = sum(member.compute.training_flops for member in members)
    cost = f"{flops / 1e15:.3g} PFLOP at {flops / seconds / 1e9:,.0f} GFLOP/s"
    stats.append(Stat("training", _duration(seconds), cost))
    return stats


def _why_higher(data: RunData) -> str:
    """Return why the submission is expected to score higher than the out-of-fold predictions."""
    members, refit = data.evaluation.metrics.members.values(), data.config.refit
    num_fold_models = sum(len(member.folds) for member in members)
    num_refits = refit.models * len(members)
    if not refit.models:
        return (
            f"the submission averages all {num_fold_models} models, an out-of-fold prediction only those that were not "
            "trained on the image"
        )
    models = f"averages {num_refits} models" if num_refits > 1 else "is that of one model"
    fold_models = f" and {num_fold_models} fold models" if refit.with_folds else ""
    return (
        f"the submission {models} trained on all training images{fold_models}, for which no score can be measured; "
        "the out-of-fold accuracy is that of fold models, which are trained on fewer"
    )


def reproduce_section(data: RunData) -> Section:
    """Return the commands that reproduce the run, its config, environment and uploads."""
    environment = dict(data.environment)
    packages = environment.pop("packages", {})
    rows = [[key, str(value)] for key, value in (environment | packages).items()]
    commit = str(data.environment.get("commit", "unknown"))
    commands = [
        *([] if commit == "unknown" else [f"git checkout {commit.removesuffix('-dirty')}"]),
        "pip install -r requirements.txt",
        f"python run.py all --config submissions/{data.name}/config.yaml --run {data.name}-again",
    ]
    blocks: list[Block] = [
        Code("commands", "\n".join(commands)),
        Code("resolved config.yaml", data.config.to_yaml(), is_open=False),
        Table(["", ""], rows, "Environment."),
    ]
    if commit.endswith("-dirty"):
        blocks.insert(1, Text("The working tree had uncommitted changes on top of this commit."))
    if data.uploads:
        uploads = [list(asdict(upload).values()) for upload in data.uploads]
        blocks.append(Table(list(asdict(data.uploads[0])), uploads, "Uploads."))
    return Section("reproduce", "Reproduce", blocks)


def _interval(scores: Accuracy) -> str:
    low, high = scores.accuracy_ci95
    return f"95 % CI {low:.4f} to {high:.4f}, n = {scores.num_images:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
