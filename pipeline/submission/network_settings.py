"""The settings for proxy and certificates, which are in variables: what is wrong with them, in one line."""

import http.client
import os
import re
import socket
import ssl
from collections.abc import Sequence
from urllib.request import getproxies

import requests
import urllib3.exceptions as urllib3_errors

from pipeline.submission.kaggle_credentials import PROXY_VARIABLES

CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MAX_TEXT = 100
PROXY_LOGIN = "the proxy asks for a user name and password (407); put NAME:PASSWORD@ before its host"
INVALID_ADDRESSES = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3_errors.LocationValueError,
    http.client.InvalidURL,
)


def explain_settings(chain: Sequence[BaseException]) -> str:
    """Return what is wrong with the settings for proxy and certificates; an empty string if nothing is."""
    texts = " ".join(str(each) for each in chain)
    certificates = _set(CERTIFICATE_VARIABLES)[:1]  # the client uses the first
    source = f"the file in {certificates[0]}" if certificates else "the installed certificates"
    refused = re.search(r"Tunnel connection failed: (4\d\d[^')]*)", texts)
    if "invalid path" in texts and "TLS" in texts:
        return f"{source}: there are no certificates at this path; correct or unset the variable"
    if re.search(r"X509|\bPEM\b|NO_CERTIFICATE", texts) or (certificates and _is_unreadable(chain)):
        return f"{source}: it can't be read as certificates; correct or unset the variable"
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain):
        return (
            f"the certificate of Kaggle's address is not trusted by {source}; behind a proxy that decrypts "
            "connections, set REQUESTS_CA_BUNDLE to the file with the proxy's certificate"
        )
    if "WRONG_VERSION_NUMBER" in texts or "HTTP_REQUEST" in texts:
        return f"the server or proxy does not use TLS; a proxy's address begins with http://{proxies()}"
    if "SOCKS support" in texts:
        return f"a SOCKS proxy needs the package PySocks: python -m pip install pysocks{proxies()}"
    if refused:
        remedy = PROXY_LOGIN if refused[1].startswith("407") else "the proxy refuses the connection; use another one"
        return f"{remedy}{proxies()}"
    through_proxy = "SOCKS" in texts or any(isinstance(each, requests.exceptions.ProxyError) for each in chain)
    if through_proxy and _is_nobody_there(chain):
        return f"the proxy does not exist, or is off; start it, or correct or unset its variable{proxies()}"
    if any(isinstance(each, INVALID_ADDRESSES) for each in chain):
        return f"the address of Kaggle or of the proxy is invalid; expected http://HOST:PORT{proxies()}"
    return ""


def _is_unreadable(chain: Sequence[BaseException]) -> bool:
    """Whether TLS failed because of a file, as for certificates without permission."""
    is_tls = any(isinstance(each, requests.exceptions.SSLError) for each in chain)
    return is_tls and any(type(each) in (PermissionError, FileNotFoundError, OSError) for each in chain)


def _is_nobody_there(chain: Sequence[BaseException]) -> bool:
    """Whether a host has no address, or nothing listens on its port."""
    return any(isinstance(each, ConnectionRefusedError | socket.gaierror) or "refused" in str(each) for each in chain)


def _set(names: tuple[str, ...]) -> list[str]:
    """Return the variables that are set, and their values."""
    variables = [name for each in names for name in dict.fromkeys((each, each.upper())) if os.environ.get(name)]
    return [f"{name}={_without_login(os.environ[name])[:MAX_TEXT]}" for name in variables]


def _without_login(address: str) -> str:
    """Return an address without its user name and password, which end at the last @ whatever they contain."""
    login, has_login, host = address.rpartition("@")
    scheme = login.partition("://")[0] + "://" if "://" in login else ""
    return f"{scheme}***@{host}" if has_login else address


def proxies() -> str:
    """Return where the proxy is set, as the end of a message; an empty string without a proxy."""
    variables = _set(PROXY_VARIABLES)
    if variables:
        return f"; the proxy is set by {', '.join(variables)}"
    return "; the proxy is set in the settings of this system" if getproxies() else ""
