"""Python imports this at startup from PYTHONPATH: a connection to another machine raises AssertionError.

Refused hosts are also written to the file named by REFUSED_CONNECTIONS, as a library may swallow the error.
"""

import os
import socket

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost", None, "")


def _refuse(host):
    # Ray's nodes connect to each other by this machine's own address, which their tests set.
    if host not in LOCAL_HOSTS and host != os.environ.get("THIS_MACHINE"):
        if "REFUSED_CONNECTIONS" in os.environ:
            with open(os.environ["REFUSED_CONNECTIONS"], "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(f"{host}\n")
        raise AssertionError(f"a test tries to reach {host}; tests need no network")


def connect(sock, address):
    """Connect to this machine only."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _refuse(address[0])
    return _connect(sock, address)


def connect_ex(sock, address):
    """Connect to this machine only."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _refuse(address[0])
    return _connect_ex(sock, address)


def getaddrinfo(host, *args, **kwargs):
    """Look up addresses of this machine only."""
    _refuse(host.decode() if isinstance(host, bytes) else host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
