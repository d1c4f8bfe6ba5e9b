"""RunData -> the page of a run, section by section, in the order in which one asks."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.report.blocks import Block, Code, Fact, Page, Section, Table, Text
from pipeline.report.run_data import RunData
from pipeline.report.galleries import duplicates, errors, label_errors, test_images, training_images
from pipeline.report.scores import calibrated, classes, confusion, curves, folds, members


def run_page(facts: RunData) -> Page:
    """Return the page of a run."""
    sections: Sequence[Callable[[RunData], Section]] = (
        folds,
        curves,
        confusion,
        classes,
        training_images,
        errors,
        label_errors,
        duplicates,
        calibrated,
        members,
        test_images,
        repeat,
    )
    known = {"recipe": facts.environment.get("recipe"), "begun": facts.environment.get("date", "").replace("T", " ")}
    return Page(
        title=facts.name,
        subtitle=", ".join(f"{name} {value}" for name, value in known.items() if value),
        facts=headline(facts),
        sections=[make(facts) for make in sections],
    )


def headline(facts: RunData) -> list[Fact]:
    """Say what score there is, what to expect, and what it took."""
    blended = facts.metrics["blend"]
    num_nets = sum(len(member["folds"]) for member in facts.metrics["members"].values())
    found = [
        Fact("out-of-fold accuracy", f"{blended['accuracy']:.4f}", _interval(blended)),
        Fact(
            "expected on Kaggle",
            f"about {blended['accuracy']:.3f}",
            f"or a little more: the submission averages all {num_nets} nets, out of fold only those that did not learn "
            "from an image are asked",
        ),
    ]
    scored = [upload for upload in facts.uploads if upload.public is not None or upload.private is not None]
    for name in ("public", "private"):
        values = [value for upload in scored if (value := getattr(upload, name)) is not None]
        if values:
            found.append(Fact(f"{name} score", f"{max(values):.4f}", f"{max(values) - blended['accuracy']:+.4f}"))
    if not scored:
        found.append(Fact("score on Kaggle", "not known", "python run.py submit, or runs --refresh"))
    found.append(Fact("log loss", f"{blended['log_loss']:.4f}", "out of fold, at the temperatures"))
    compute = [member["compute"] for member in facts.metrics["members"].values()]
    seconds, flop = (sum(each[key] for each in compute) for key in ("training_seconds", "training_flop"))
    found.append(
        Fact("training", _duration(seconds), f"{flop / 1e15:.3g} PFLOP at {flop / seconds / 1e9:,.0f} GFLOP/s")
    )
    return found


def repeat(facts: RunData) -> Section:
    """Show the recipe, the environment, and how to make the run again."""
    environment = dict(facts.environment)
    packages = environment.pop("packages", {})
    rows = [[key, str(value)] for key, value in (environment | packages).items()]
    commit = str(facts.environment.get("commit", "unknown"))
    commands = [
        *([] if commit == "unknown" else [f"git checkout {commit.removesuffix('-dirty')}"]),
        "pip install -r requirements.txt",
        f"python run.py all --config submissions/{facts.name}/config.yaml --run {facts.name}-again",
    ]
    blocks: list[Block] = [
        Code("the commands", "\n".join(commands)),
        Code("the whole recipe, config.yaml", facts.config.to_yaml(), is_open=False),
        Table(["", ""], rows, "What it ran on."),
    ]
    if commit.endswith("-dirty"):
        blocks.insert(1, Text("Files had been changed since that commit."))
    if facts.uploads:
        uploads = [list(asdict(upload).values()) for upload in facts.uploads]
        blocks.append(Table(list(asdict(facts.uploads[0])), uploads, "Uploads."))
    return Section("repeat", "Make it again", blocks)


def _interval(scores: Any) -> str:
    low, high = scores["accuracy_95"]
    return f"95 %: {low:.4f} to {high:.4f}, n = {scores['num_images']:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
