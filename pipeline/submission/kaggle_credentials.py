"""Keeping Kaggle credentials secret: their redaction from texts, and the permissions of their files."""

import base64
import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from pipeline.progress import log
from pipeline.submission.credential_files import MAX_BYTES, credential_files, decode, path_of_token, trim

REDACTED = "***"
VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_TOKEN", "KAGGLE_API_V1_TOKEN")
PROXY_VARIABLES = ("https_proxy", "http_proxy", "all_proxy")
MIN_SECRET_LENGTH = 8  # shorter values are no keys, and are parts of other words
WORD = re.compile(r"[A-Za-z0-9._~+-]{16,}=*")  # of a file without names: shorter words are names and punctuation
PUBLIC_VALUES = ("username", "scopes", "access_token_expiration", "auth_method", "competition", "path", "proxy")
# What has the form of a secret, also one that is in no file: in a server's answer, a header, or an address.
SHAPES = (
    (re.compile(r"KGAT_[\w.~+/-]+=*"), REDACTED),
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]+)*"), REDACTED),  # JSON Web Token
    (re.compile(r"\b(bearer)\s+(?!tokens?\b|auth)[^\s\"',;)\]}]+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\b(basic)\s+[A-Za-z0-9+/_-]{16,}=*", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), f"{REDACTED}@"),  # user and password of a proxy
    (re.compile(r"(Failed to parse: )\S+"), rf"\1{REDACTED}"),  # a part of a proxy's address
    (re.compile(r"((?:https?:/|\burl: )/[^\s?'\"]*)\?[^\s'\")>]+"), rf"\1?{REDACTED}"),  # the signature of a download
)


def redacted(text: str) -> str:
    """Replace credentials in a text, where a server, a library or a traceback may have put them, by ***."""
    forms: set[str] = set()
    with contextlib.suppress(Exception):  # a text must be printed, whatever the files contain
        for secret in _secrets():
            forms.update(_forms(secret))
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, REDACTED)
    for shape, replacement in SHAPES:
        text = shape.sub(replacement, text)
    return text


def warn_of_readable_credentials() -> None:
    """Log a warning for every file of credentials that other users of the machine can read, and its owner can change.

    Windows has no such permissions.
    """
    if os.name != "posix":
        return
    for file in credential_files():
        with contextlib.suppress(OSError):
            if file.is_file() and file.stat().st_mode & 0o077 and os.access(file, os.W_OK):
                log.warning("%s can be read by other users of this machine: chmod 600 %s", file, shlex.quote(str(file)))


def _secrets() -> Iterator[str]:
    """Yield the secrets in all variables and files, also in files that can't be used. Never raises."""
    values: dict[str, Any] = {"username": os.environ.get("KAGGLE_USERNAME", "")}
    for name in VARIABLES:
        value = os.environ.get(name, "")
        with contextlib.suppress(OSError, ValueError):
            path = path_of_token(value)
            if path is None or not path.exists():
                values[name] = value
    yield from _secrets_in(values)
    for name in PROXY_VARIABLES:
        login = (os.environ.get(name) or os.environ.get(name.upper(), "")).rpartition("@")[0].rpartition("://")[2]
        yield from (login, login.partition(":")[2])
    for file in credential_files():
        with contextlib.suppress(OSError):
            if file.is_file():  # reading a pipe would wait
                with file.open("rb") as opened:
                    yield from _secrets_in_file(opened.read(MAX_BYTES), is_token=file.suffix != ".json")


def _secrets_in_file(data: bytes, *, is_token: bool) -> Iterator[str]:
    for text in {_decode_or_guess(data), data.decode("latin-1")}:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            yield from _secrets_in(values)
        else:
            yield text if is_token else ""
            yield from WORD.findall(text)


def _secrets_in(values: dict[str, Any]) -> Iterator[str]:
    """Yield secret values, and what a header of Basic authentication has in place of user name and key."""
    user_name = trim(str(values.get("username", "")))
    for name, value in values.items():
        if name in PUBLIC_VALUES:
            continue
        if not isinstance(value, str):
            yield from WORD.findall(str(value))
            continue
        yield value
        for pair in (f"{user_name}:{value}", f"{user_name}:{trim(value)}"):
            yield from (
                base64.b64encode(pair.encode(encoding, "replace")).decode() for encoding in ("utf-8", "latin-1")
            )


def _decode_or_guess(data: bytes) -> str:
    try:
        return trim(decode(data))
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _forms(secret: str) -> Iterator[str]:
    """Yield the forms of a secret in texts: without surrounding space, word by word, escaped, in an address."""
    for part in {secret, trim(secret), *secret.split()}:
        if len(trim(part)) < MIN_SECRET_LENGTH:
            continue
        yield part
        yield from (repr(part)[1:-1], ascii(part)[1:-1], json.dumps(part)[1:-1])
        encoded = part.encode("utf-8", "replace")
        yield from (quote(encoded, safe=""), quote_plus(encoded), repr(encoded)[2:-1])
        yield from (repr(part.encode(encoding, "replace"))[2:-1] for encoding in ("latin-1", "utf-16-le", "utf-16-be"))
