"""Python loads this by itself where it lies on PYTHONPATH: to ask for any other machine than this one is an error.

What was refused is also written into the file that REFUSED_CONNECTIONS names, as a library may swallow the error.
"""

import os
import socket

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
HERE = ("127.0.0.1", "::1", "localhost", None, "")


def _refuse(host):
    # Ray's nodes speak to each other by this machine's own address; the tests that start them name it.
    if host not in HERE and host != os.environ.get("THIS_MACHINE"):
        if "REFUSED_CONNECTIONS" in os.environ:
            with open(os.environ["REFUSED_CONNECTIONS"], "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(f"{host}\n")
        raise AssertionError(f"a test tries to reach {host}; tests need no network")


def connect(sock, address):
    """Connect, if it is to this machine."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _refuse(address[0])
    return _connect(sock, address)


def connect_ex(sock, address):
    """Connect, if it is to this machine."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _refuse(address[0])
    return _connect_ex(sock, address)


def getaddrinfo(host, *args, **kwargs):
    """Look up an address, if it is this machine's."""
    _refuse(host.decode() if isinstance(host, bytes) else host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
