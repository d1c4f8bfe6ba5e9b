import io
import logging
import os
import subprocess
import sys
from datetime import timedelta

import pytest
from conftest import ROOT
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from pipeline import progress
from pipeline.progress import NOTEBOOK_VARIABLES


@pytest.fixture
def screen(monkeypatch):
    """Replace the console by one that writes to a string, as a terminal or not."""

    def make(*, is_terminal, width=140):
        file = io.StringIO()
        monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=is_terminal, width=width))
        return file

    return make


def show_two_folds():
    with progress.progress_display(1000.0) as display:
        with display.bar("fold 0", epochs=4, flops=500.0) as bar:
            for done in range(100, 401, 100):
                bar.set_postfix(f"loss {done}")
                bar(done, 400)
        with display.bar("fold 1", epochs=4, flops=500.0) as bar:
            bar(200, 400)


def test_terminal_shows_fold_epoch_loss_and_overall_progress(screen):
    file = screen(is_terminal=True)
    show_two_folds()
    text = file.getvalue()

    assert "fold 0, epoch 4/4, loss 400" in text
    assert "100%" in text
    assert "overall" in text
    assert "75%" in text  # one fold and half of the other


def test_progress_fits_a_terminal_of_80_columns(screen):
    file = screen(is_terminal=True, width=80)
    with progress.progress_display(1000.0) as display, display.bar("airbench_res28 refit 0", epochs=15) as bar:
        bar.set_postfix("loss 1.234, validation 0.812")
        bar(200, 400)
    lines = [Text.from_ansi(line).plain.rstrip() for line in file.getvalue().replace("\r", "\n").splitlines()]

    assert any(
        line.startswith("airbench_res28 refit 0, epoch 8/15, loss 1.234, validation 0.812") and " 50% " in line
        for line in lines
    )
    assert max(map(len, lines)) <= 80


def test_no_bars_without_a_terminal(screen):
    file = screen(is_terminal=False)
    show_two_folds()

    assert file.getvalue() == ""


def test_quiet_shows_only_warnings(screen, capsys):
    file = screen(is_terminal=True)
    progress.set_up_logging(quiet=True)
    try:
        show_two_folds()
        progress.log.info("a line")
        progress.log.warning("a warning")
        err = capsys.readouterr().err
    finally:
        progress.set_up_logging()

    assert file.getvalue() == ""
    assert "a warning" in err
    assert "a line" not in err
    assert progress.log.level == logging.INFO


def test_eta_is_the_remaining_flops_at_the_speed_so_far(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    display = progress.ProgressDisplay(Progress(disable=True), 1000.0)
    assert display.eta() is None
    with display.bar("resumed fold", epochs=4, flops=400.0, initial_fraction=0.5) as bar:
        assert display.eta() is None  # an interrupted call's progress is no measure of the speed
        now += 10
        bar(3, 4)  # 100 FLOPs in 10 s, 700 remain

        assert display.eta() == timedelta(seconds=70)

    assert display.eta() == timedelta(seconds=30)


def test_long_epochs_are_logged_where_no_bars_are_shown(screen, monkeypatch, caplog):
    screen(is_terminal=False)
    caplog.set_level(logging.INFO, "pipeline")
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_display(1000.0) as display, display.bar("fold 0", epochs=4, flops=500.0) as bar:
        for done in (100, 150, 200):
            now += 100
            bar.set_postfix(f"loss {done}")
            bar(done, 400)

    assert caplog.messages == ["fold 0, epoch 2/4: 37 % done, time left 0:14:27 (total)"]


def test_bars_on_a_terminal_are_not_logged(screen, monkeypatch, caplog):
    screen(is_terminal=True)
    caplog.set_level(logging.INFO, "pipeline")
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    show_two_folds()

    assert caplog.messages == []


@pytest.mark.parametrize("value", [(0, 5), (5, 5)])
def test_no_progress_shows_nothing(capsys, value):
    progress.no_progress(*value)

    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize(("variable", "expected"), [("ANY", "True"), ("KAGGLE_KERNEL_RUN_TYPE", "False")])
def test_live_view_is_off_in_a_notebook_although_it_has_a_terminal(variable, expected):
    ours, theirs = os.openpty()
    code = "from pipeline.progress import console; print(console.is_terminal)"
    environment = {name: value for name, value in os.environ.items() if name not in NOTEBOOK_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {variable: "Interactive", "TERM": "xterm"}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60, check=True,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)

    assert done.stdout.strip() == expected
