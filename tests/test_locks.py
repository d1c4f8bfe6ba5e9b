"""Locks between processes: waiting, refusing, and file systems without locks."""

import errno
import logging
import os
import subprocess
import sys
import threading

import filelock
import pytest
from conftest import ROOT

from pipeline import locks
from pipeline.locks import LockedError, file_lock


@pytest.fixture
def owner(tmp_path):
    """Another process that holds a lock until its input ends."""
    code = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT)!r}); from pipeline.locks import file_lock\n"
        f"with file_lock(pathlib.Path({str(tmp_path)!r}) / '.lock'): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process


def test_second_process_gets_the_process_id_of_the_first(owner, tmp_path):
    with pytest.raises(LockedError, match=f"^{owner.pid}$"), file_lock(tmp_path / ".lock"):
        pass


def test_second_process_waits_and_says_for_what(owner, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    caplog.set_level(logging.INFO, "pipeline")
    threading.Timer(0.3, owner.stdin.close).start()
    with file_lock(tmp_path / ".lock", wait_for="it decodes the images"):
        assert owner.wait(timeout=20) == 0

    assert f"waiting for process {owner.pid}: it decodes the images" in caplog.text


def test_lock_of_a_killed_process_is_free(owner, tmp_path):
    owner.kill()
    owner.wait()

    with file_lock(tmp_path / ".lock"):
        assert (tmp_path / ".lock.pid").read_text() == str(os.getpid())


def test_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="within"), file_lock(tmp_path / ".lock"):
        raise ValueError("within")

    with file_lock(tmp_path / ".lock"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_file_system_without_locks_gives_a_warning(tmp_path, caplog, monkeypatch, number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with file_lock(tmp_path / ".lock"):
        pass

    assert "this file system has no locks" in caplog.text
    assert "start no second process" in caplog.text


def test_lock_that_no_process_holds_gives_a_warning(tmp_path, caplog, monkeypatch):
    def wait(*_args, **_kwargs):
        raise filelock.Timeout(str(tmp_path / ".lock"))

    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    monkeypatch.setattr(locks, "SECONDS_WITHOUT_OWNER", 0.01)
    monkeypatch.setattr(filelock.FileLock, "acquire", wait)
    with file_lock(tmp_path / ".lock", wait_for="it decodes the images"):
        pass

    assert "this file system has no locks (it reports a lock that no process holds)" in caplog.text


def test_other_errors_of_a_lock_are_raised(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(PermissionError), file_lock(tmp_path / ".lock"):
        pass
