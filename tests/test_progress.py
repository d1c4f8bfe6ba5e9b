import io

import pytest
from rich.console import Console

from pipeline import progress


def shown(monkeypatch, *, is_terminal):
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=is_terminal, width=120))
    with progress.bar("net fold 0", epochs=4) as show:
        for done in range(100, 401, 100):
            show(done, 400)
    return file.getvalue()


def test_a_terminal_sees_fold_epoch_and_count(monkeypatch):
    text = shown(monkeypatch, is_terminal=True)

    assert "net fold 0, epoch 4 of 4" in text
    assert "400/400" in text


def test_a_file_sees_no_bars(monkeypatch):
    assert shown(monkeypatch, is_terminal=False) == ""


@pytest.mark.parametrize("value", [(0, 5), (5, 5)])
def test_unseen_shows_nothing(capsys, value):
    progress.unseen(*value)

    assert capsys.readouterr() == ("", "")
