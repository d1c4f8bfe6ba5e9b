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
