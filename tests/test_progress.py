import io
import logging
from datetime import timedelta

import pytest
from rich.console import Console
from rich.progress import Progress

from pipeline import progress


@pytest.fixture
def screen(monkeypatch):
    """Give a console of its own, as a terminal or not."""

    def make(*, is_terminal):
        file = io.StringIO()
        monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=is_terminal, width=140))
        return file

    return make


def show_a_fold():
    with progress.progress_display(1000.0) as view:
        with view.bar("net fold 0", epochs=4, work=500.0) as bar:
            for done in range(100, 401, 100):
                bar.say(f"loss {done}")
                bar(done, 400)
        with view.bar("net fold 1", epochs=4, work=500.0) as bar:
            bar(200, 400)


def test_a_terminal_sees_fold_epoch_loss_and_the_whole_job(screen):
    file = screen(is_terminal=True)
    show_a_fold()
    text = file.getvalue()

    assert "net fold 0, epoch 4 of 4, loss 400" in text
    assert "100%" in text
    assert "whole job" in text
    assert "75%" in text  # a whole fold and half of the other


def test_a_file_sees_no_bars(screen):
    file = screen(is_terminal=False)
    show_a_fold()

    assert file.getvalue() == ""


def test_quiet_shows_neither_bars_nor_lines_but_warnings(screen, capsys):
    file = screen(is_terminal=True)
    progress.set_up_logging(quiet=True)
    try:
        show_a_fold()
        progress.log.info("a line")
        progress.log.warning("a warning")
        found = capsys.readouterr().err
    finally:
        progress.set_up_logging()

    assert file.getvalue() == ""
    assert "a warning" in found
    assert "a line" not in found
    assert progress.log.level == logging.INFO


def test_the_time_left_is_that_of_all_work_at_the_speed_so_far(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    view = progress.ProgressDisplay(Progress(disable=True), 1000.0)
    assert view.time_left() is None
    with view.bar("resumed fold", epochs=4, work=400.0, share_before=0.5) as bar:
        assert view.time_left() is None  # what an earlier call did says nothing of the speed
        now += 10
        bar(3, 4)  # 100 of work in 10 s, 700 are left

        assert view.time_left() == timedelta(seconds=70)

    assert view.time_left() == timedelta(seconds=30)


@pytest.mark.parametrize("value", [(0, 5), (5, 5)])
def test_unseen_shows_nothing(capsys, value):
    progress.no_progress(*value)

    assert capsys.readouterr() == ("", "")
