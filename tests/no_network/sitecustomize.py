"""Python loads this by itself where it lies on PYTHONPATH: a connection to any address but 127.0.0.1 is an error."""

import socket

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _refuse(sock, address):
    if sock.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test tries to reach {address}; tests need no network")


def connect(sock, address):
    """Connect, if it is to this machine."""
    _refuse(sock, address)
    return _connect(sock, address)


def connect_ex(sock, address):
    """Connect, if it is to this machine."""
    _refuse(sock, address)
    return _connect_ex(sock, address)


socket.socket.connect, socket.socket.connect_ex = connect, connect_ex
