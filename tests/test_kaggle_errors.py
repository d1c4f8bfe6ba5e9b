"""Whatever the kaggle client raises is one line without secrets, at once; only the network is tried again."""

import errno
import http.client
import itertools
import json
import os
import re
import socket
import ssl
from types import SimpleNamespace

import pytest
import requests
import urllib3.exceptions as urllib3_errors
from requests import exceptions as requests_errors

from pipeline.errors import KaggleError, RunError
from pipeline.submission import kaggle_retry, network_settings
from pipeline.submission.credential_values import Credentials
from pipeline.submission.kaggle_errors import RetryableError
from pipeline.submission.kaggle_retry import call_once, retrying
from pipeline.task import CIFAR10

SECRET = "0123456789abcdef0123456789abcdef"
TOKEN = Credentials("the file x", "token")


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """No proxy, no certificates, and a secret."""
    for name in list(os.environ):
        if name.startswith("KAGGLE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in network_settings.CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_KEY", SECRET)


def raised_by(error, folder=None):
    """Return what a call raises if the client raises an error."""

    def call():
        raise error

    with pytest.raises((KaggleError, RetryableError)) as caught:
        call_once(call, 5, CIFAR10, TOKEN, folder)
    assert len(str(caught.value).splitlines()) == 1
    assert SECRET not in str(caught.value)
    return caught.value


def pool_error(reason, kind=requests_errors.ConnectionError):
    """Return an error as requests raises it: it wraps urllib3's, which wraps the reason."""
    return kind(urllib3_errors.MaxRetryError(None, "/x", reason))


def new_connection_error(number):
    error = urllib3_errors.NewConnectionError(None, f"Failed to establish a new connection: [Errno {number}]")
    error.__context__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize(
    "error",
    [
        AttributeError(f"'list' has no attribute 'get' {SECRET}"),
        KeyError(SECRET),
        ValueError(f"Invalid header value b'Bearer {SECRET}\\r'"),
        TypeError("'>=' not supported between instances of 'str' and 'int'"),
        UnicodeEncodeError("latin-1", f"\ufeff{SECRET}", 0, 1, "ordinal not in range(256)"),
        UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "invalid start byte"),
        RecursionError("maximum recursion depth exceeded"),
        AssertionError(),
        SystemExit(1),
        Exception("Authentication failed.\n" * 50),
        requests_errors.InvalidHeader(f"Header part (b'Bearer {SECRET}\\n') is invalid"),
        OSError("no number"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_bug_of_the_client_is_one_line_that_names_another_way(error):
    raised = raised_by(error)

    assert isinstance(raised, KaggleError)
    assert str(raised).startswith(f"the kaggle client failed ({type(error).__name__}")
    assert str(raised).endswith("in a browser: https://www.kaggle.com/c/cifar-10")
    assert len(str(raised)) < 500


def test_error_of_this_project_passes_unchanged():
    def call():
        raise RunError("a text")

    with pytest.raises(RunError, match=r"^a text$"):
        call_once(call, 5, CIFAR10, TOKEN)


@pytest.mark.parametrize("error", [ImportError("cannot import name 'x'"), ModuleNotFoundError("No module named 'six'")])
def test_incomplete_installation_is_reported_with_the_command_that_completes_it(error):
    raised = raised_by(error)

    assert isinstance(raised, KaggleError)
    assert re.match(r"the kaggle client can't be loaded \(.*\); python -m pip install -r req", str(raised))


@pytest.mark.parametrize(
    "number",
    [
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOENT,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ETXTBSY,
    ],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_local_error_is_reported_at_once_with_its_path(number, is_wrapped):
    error = OSError(number, os.strerror(number), "some/file")
    raised = raised_by(requests_errors.ConnectionError(error) if is_wrapped else error)

    assert isinstance(raised, KaggleError)
    assert str(raised).startswith("some/file: ")
    assert "network" not in str(raised).replace("network drive", "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_error_of_a_write_names_the_folder_of_the_download(number, tmp_path):
    raised = raised_by(OSError(number, os.strerror(number)), tmp_path)

    assert isinstance(raised, KaggleError)
    assert str(raised).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    "error",
    [
        pool_error(new_connection_error(errno.ECONNREFUSED)),
        pool_error(new_connection_error(errno.ENETUNREACH)),
        pool_error(new_connection_error(errno.EACCES)),  # a firewall
        requests_errors.ConnectTimeout("x"),
        requests_errors.ReadTimeout("x"),
        requests_errors.ChunkedEncodingError("x"),
        requests_errors.ContentDecodingError("x"),
        requests_errors.RetryError("x"),
        requests_errors.SSLError("EOF occurred in violation of protocol"),
        urllib3_errors.ProtocolError("x"),
        http.client.IncompleteRead(b""),
        http.client.BadStatusLine("x"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "broken"),
        TimeoutError("no response in 60 s"),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        ssl.SSLEOFError(8, "EOF occurred"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_network_error_may_be_retried(error):
    assert isinstance(raised_by(error), RetryableError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (json.JSONDecodeError("Expecting value", "<html>", 0), "a web page or other text that is not JSON arrived"),
        (requests_errors.JSONDecodeError("Expecting value", "<html>", 0), "a web page or other text that is not JSON"),
        (requests_errors.TooManyRedirects("x"), "a web page or other text that is not JSON arrived"),
        (requests_errors.InvalidURL("x"), "the address of Kaggle or of the proxy is invalid"),
        (requests_errors.InvalidProxyURL("x"), "the address of Kaggle or of the proxy is invalid"),
        (requests_errors.MissingSchema("x"), "the address of Kaggle or of the proxy is invalid"),
        (urllib3_errors.ProxySchemeUnknown("ftp"), "the address of Kaggle or of the proxy is invalid"),
        (urllib3_errors.LocationParseError("x"), "the address of Kaggle or of the proxy is invalid"),
        (
            requests_errors.InvalidSchema("Missing dependencies for SOCKS support."),
            "a SOCKS proxy needs .*pysocks",
        ),
        (
            OSError("Tunnel connection failed: 407 Proxy Authentication Required"),
            "the proxy asks for a user",
        ),
        (OSError("Tunnel connection failed: 403 Forbidden"), "the proxy refuses the connection; use another one"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "the server or proxy does not use TLS"),
        (
            pool_error(ssl.SSLCertVerificationError(1, "certificate verify failed"), requests_errors.SSLError),
            "the certificate of Kaggle's address is not trusted by the installed certificates",
        ),
        (
            OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /x"),
            "the installed certificates: there are no certificates at this path",
        ),
    ],
)
def test_what_does_not_pass_by_itself_is_reported_at_once(error, text):
    raised = raised_by(error)

    assert isinstance(raised, KaggleError)
    assert re.match(text, str(raised))


@pytest.mark.parametrize("host", ["user:password@127.0.0.1:1", "user:password@localhost:1"])
def test_proxy_that_is_off_is_named_at_once_without_its_password(monkeypatch, host):
    monkeypatch.setenv("http_proxy", f"http://{host}")
    with requests.Session() as session, pytest.raises(KaggleError, match=r"^the proxy does not exist, or is") as caught:
        call_once(lambda: session.get("http://127.0.0.1:9", timeout=5), 10, CIFAR10, TOKEN)

    assert f"; the proxy is set by http_proxy=http://***@{host.split('@')[1]}" in str(caught.value)
    assert "password" not in str(caught.value)


def test_proxy_is_named_when_the_network_fails(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://host:9")
    raised = raised_by(requests_errors.ConnectTimeout("x"))

    assert isinstance(raised, RetryableError)
    assert str(raised).endswith("; the proxy is set by ALL_PROXY=http://host:9")


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_variable_with_wrong_certificates_is_named(monkeypatch, tmp_path, name, content):
    path = tmp_path / "certificates.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(name, str(path))
    with socket.create_server(("127.0.0.1", 0)) as server, requests.Session() as session:
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(KaggleError, match=rf"^the file in {name}={path}: .*; correct or unset the variable"):
            call_once(lambda: session.get(address, timeout=5), 10, CIFAR10, TOKEN)


@pytest.mark.parametrize("proxy", ["127.0.0.1:abc", "http://", "http://host:99999", "ftp://host:1", "http://[::1"])
def test_proxy_that_cannot_be_parsed_is_named(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with (
        requests.Session() as session,
        pytest.raises(KaggleError, match="the address of Kaggle or") as caught,
    ):
        call_once(lambda: session.get("http://127.0.0.1:9", timeout=5), 10, CIFAR10, TOKEN)
    assert f"; the proxy is set by http_proxy={proxy}" in str(caught.value)


def waits_of_a_failing_call(timeout, progress):
    """Return how long a call that always fails waits, at most eight times."""
    waits = []

    def fail():
        raise KaggleError("enough") if len(waits) == 8 else RetryableError("no")

    with pytest.raises((RetryableError, KaggleError)):
        retrying(timeout, waits.append, progress)(fail)
    return waits


def test_retries_end_after_a_time_without_progress(monkeypatch):
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(kaggle_retry, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    sizes = iter([0, 1, 2, 3, *[3] * 100])

    assert waits_of_a_failing_call(35, lambda: 0) == [2, 4]
    assert waits_of_a_failing_call(35, lambda: next(sizes)) == [2, 4, 8, 16]
    assert len(waits_of_a_failing_call(35, itertools.count().__next__)) == 8
