"""Credentials in a file or variable: read, checked before they go into a header, and handed to the kaggle client."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.submission.credential_files import CredentialError, read_credentials, trim

TOKEN_VARIABLE = "KAGGLE_API_TOKEN"  # noqa: S105 (a name)
API_KEY_VARIABLES = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}
EXPECTED_API_KEY = '{"username": "...", "key": "..."}'
MAX_VALUE = 200  # characters; the client tries KAGGLE_API_TOKEN as a path, and longer names are errors
QUOTES = "\"'`\u2018\u2019\u201c\u201d"


@dataclass(frozen=True)
class Credentials:
    """Credentials for the client. Their text contains no secret."""

    origin: str
    """The file or variable."""
    kind: str
    """token, key or login."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that hand them to the client; none for a login, whose file the client reads."""


def token_in(path: Path) -> Credentials | None:
    """Return the token in a file, None if there is no file. Raises CredentialError."""
    text = read_credentials(path)
    return None if text is None else check_token(text, str(path), path)


def check_token(value: str, origin: str, path: Path | None = None) -> Credentials:
    """Check a token, which goes into a header. Raises CredentialError that does not show it."""
    problem = _problem(value)
    if problem:
        raise CredentialError(f"{origin} {problem}; expected the token alone, in one line")
    if len(value) <= MAX_VALUE:
        return Credentials(origin, "token", {TOKEN_VARIABLE: value})
    if path is None:
        raise CredentialError(
            f"{origin} has {len(value):,} characters, the client takes {MAX_VALUE}; save the token to "
            "~/.kaggle/access_token instead"
        )
    return Credentials(origin, "token", {TOKEN_VARIABLE: str(path.absolute())})


def api_key_in(path: Path, given: Mapping[str, str]) -> Credentials | None:
    """Return the API key in kaggle.json; None if there is no file. Variables in `given` override its values.

    Raises CredentialError.
    """
    values = _json_object(path, f"expected {EXPECTED_API_KEY}")
    if values is None:
        return None
    for name in API_KEY_VARIABLES.keys() & values.keys():
        if not isinstance(values[name], str):
            raise CredentialError(f"{name!r} in {path} is {_json_type(values[name])}, expected {EXPECTED_API_KEY}")
    return check_api_key({**values, **given}, str(path), given)


def check_api_key(values: Mapping[str, str], origin: str, given: Mapping[str, str]) -> Credentials:
    """Check user name and key, which go into a header. Raises CredentialError that does not show them."""
    variables = {}
    for name, variable in API_KEY_VARIABLES.items():
        variables[variable] = value = trim(values.get(name, ""))
        problem = _problem(value) if value else "is missing or empty"
        if problem:
            title = f"the variable {variable}" if name in given else f"{name!r} in {origin}"
            remedy = "correct or unset it" if name in given else f"expected {EXPECTED_API_KEY}"
            hint = "; your user name is in the address of your profile, kaggle.com/NAME" if name == "username" else ""
            raise CredentialError(f"{title} {problem}, {remedy}{hint}")
    return Credentials(origin, "key", variables)


def login_in(path: Path) -> Credentials | None:
    """Check what `kaggle auth login` saved; the client reads the file itself. Raises CredentialError."""
    again = "run `kaggle auth login` again"
    values = _json_object(path, again)
    if values is None:
        return None
    if not isinstance(values.get("refresh_token"), str) or not values["refresh_token"]:
        raise CredentialError(f"{path} has no refresh_token; {again}")
    expiration, access_token = values.get("access_token_expiration"), values.get("access_token")
    try:
        is_valid = not expiration or datetime.fromisoformat(expiration).tzinfo is not None
    except (TypeError, ValueError):
        is_valid = False
    if not is_valid or (access_token and (not isinstance(access_token, str) or _problem(access_token))):
        raise CredentialError(f"{path} has an invalid access token or expiration date; {again}")
    if not path.read_bytes().lstrip().startswith(b"{"):
        raise CredentialError(f"{path} has a byte order mark, which the client does not read; {again}")
    return Credentials(str(path), "login")


def _json_object(path: Path, remedy: str) -> dict[str, Any] | None:
    """Return the object in a JSON file, None if there is no file. Raises CredentialError."""
    text = read_credentials(path)
    if text is None:
        return None
    if not text:
        raise CredentialError(f"{path} is empty; {remedy}")
    if text.startswith("KGAT_"):
        raise CredentialError(f"{path} contains an access token, not JSON; save it to ~/.kaggle/access_token instead")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise CredentialError(f"{path} is not JSON ({error.msg}, line {error.lineno}); {remedy}") from None
    except (RecursionError, ValueError):  # nested a thousand times, a number of thousands of digits
        raise CredentialError(f"{path} is not JSON of credentials; {remedy}") from None
    if not isinstance(value, dict):
        raise CredentialError(f"{path} contains {_json_type(value)}; {remedy}")
    return value


def _json_type(value: Any) -> str:
    """Return how JSON calls a value."""
    names = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _problem(value: str) -> str:
    """Return why a value is no token, user name or key, as a predicate; an empty string if it may be one."""
    if not value:
        return "is empty"
    if value.startswith(("{", "[")):
        return "contains JSON, which belongs in ~/.kaggle/kaggle.json"
    if len(value.splitlines()) > 1:
        return "has a line end in its middle"
    if any(character.isspace() for character in value):
        return "has a space in its middle"
    if value[0] in QUOTES or value[-1] in QUOTES:
        return "has quotation marks around it"
    if not value.isascii() or not value.isprintable():
        return "has a character that is not printable ASCII"
    unexpected = re.search(r"[^A-Za-z0-9._~+/-]", value.rstrip("="))  # RFC 6750, section 2.1
    return f"has the unexpected character {unexpected[0]}" if unexpected else ""
