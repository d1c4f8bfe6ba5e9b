"""The guard that keeps all tests and their subprocesses off the network."""

import socket
import subprocess
import sys

import pytest


def test_connection_of_this_process_is_refused():
    with socket.socket() as sock, pytest.raises(AssertionError, match="tests need no network"):
        sock.connect(("192.0.2.1", 80))


def test_connection_of_a_subprocess_is_refused():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "tests need no network" in done.stderr


def test_name_lookup_is_refused_and_recorded(monkeypatch, tmp_path):
    monkeypatch.setenv("REFUSED_CONNECTIONS", str(tmp_path / "refused"))
    with pytest.raises(AssertionError, match=r"tries to reach example\.org"):
        socket.create_connection(("example.org", 80))

    assert (tmp_path / "refused").read_text() == "example.org\n"


def test_whole_job_makes_no_connection(whole_run):
    folder, done = whole_run

    assert "submission, checked" in done.stdout
    assert not (folder / "refused_connections").exists()
