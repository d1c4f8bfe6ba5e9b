"""The guard itself: no test may reach another machine, in whatever process."""

import socket
import subprocess
import sys

import pytest


def test_this_process_reaches_no_other_machine():
    with socket.socket() as sock, pytest.raises(AssertionError, match="tests need no network"):
        sock.connect(("192.0.2.1", 80))


def test_a_process_of_a_test_reaches_no_other_machine():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "tests need no network" in done.stderr


def test_a_name_is_not_looked_up_and_the_try_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("REFUSED_CONNECTIONS", str(tmp_path / "refused"))
    with pytest.raises(AssertionError, match=r"tries to reach example\.org"):
        socket.create_connection(("example.org", 80))

    assert (tmp_path / "refused").read_text() == "example.org\n"


def test_a_whole_job_asks_for_no_other_machine(whole_run):
    folder, done = whole_run

    assert "submission, checked" in done.stdout
    assert not (folder / "refused_connections").exists()
