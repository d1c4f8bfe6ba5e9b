"""The credentials that the kaggle client is to use, found and checked before it is imported.

The order of precedence is the client's: an access token, an API key, `kaggle auth login`. A file that can't be used is
a warning if another one can; a variable that can't be used is an error, as somebody set it for this purpose.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.errors import KaggleError
from pipeline.progress import log
from pipeline.submission.credential_files import (
    CredentialError,
    api_key_files,
    api_key_folders,
    login_files,
    path_of_token,
    token_files,
    trim,
)
from pipeline.submission.credential_values import (
    API_KEY_VARIABLES,
    TOKEN_VARIABLE,
    Credentials,
    api_key_in,
    check_api_key,
    check_token,
    login_in,
    token_in,
)

SETTINGS_PAGE = "https://www.kaggle.com/settings"
NOTEBOOK = ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL", "KAGGLE_API_V1_TOKEN")


def find_credentials() -> Credentials:
    """Return the first credentials that can be used. Raises KaggleError that names every way, or every problem."""
    problems: list[str] = []
    for find in (_notebook_token, _token_variable, _token_file, _api_key, _login):
        credentials = find(problems)
        if credentials is not None:
            for problem in problems:
                log.warning("%s; using %s", problem, credentials.origin)
            return credentials
    raise KaggleError(no_credentials(problems))


def no_credentials(problems: list[str]) -> str:
    """Return an error with what is wrong with the credentials, or all ways to give some and where they may be."""
    if problems:
        return f"no usable Kaggle credentials: {'; '.join(problems)}. A new token: {SETTINGS_PAGE}"
    looked_for = [str(path) for path in (*token_files()[:1], *api_key_files(), *login_files())]
    similar = _similar_files()
    return (
        f"there are no Kaggle credentials. Make a token on {SETTINGS_PAGE} and give it in one of these "
        f"ways: the variable {TOKEN_VARIABLE}; the file ~/.kaggle/access_token; the variables KAGGLE_USERNAME and "
        "KAGGLE_KEY; the file ~/.kaggle/kaggle.json; `kaggle auth login`. Looked for: "
        f"{', '.join(looked_for) or 'only variables, as this user has no home folder (HOME)'}"
        + (f". Rename {similar[0]}?" if similar else "")
    )


def _similar_files() -> list[Path]:
    """Return files such as `kaggle (1).json` and `kaggle.json.txt`, as browsers and Windows name them."""
    found = []
    for folder in api_key_folders():
        try:
            found += [path for path in folder.iterdir() if re.match(r"(kaggle|access_token).*(json|txt)$", path.name)]
        except OSError:
            continue
    return sorted(found)


def _notebook_token(problems: list[str]) -> Credentials | None:
    """Return the token of a Kaggle notebook, which is in a file."""
    if not all(os.environ.get(name) for name in NOTEBOOK):
        return None
    return _first(token_in, [Path(os.environ[NOTEBOOK[2]])], problems)


def _token_variable(_problems: list[str]) -> Credentials | None:
    origin = f"the variable {TOKEN_VARIABLE}"
    value = trim(os.environ.get(TOKEN_VARIABLE, ""))
    if not value:
        return None
    path = path_of_token(value)
    try:
        credentials = check_token(value, origin) if path is None else token_in(path)
    except CredentialError as error:
        raise KaggleError(str(error) if path is None else f"{origin}: {error}") from None
    if credentials is None:
        # The value is not shown: it may be a secret with a slash.
        raise KaggleError(f"{origin} is neither a token nor the path of a file with one; correct or unset it")
    return credentials


def _token_file(problems: list[str]) -> Credentials | None:
    return _first(token_in, token_files(), problems)


def _login(problems: list[str]) -> Credentials | None:
    return _first(login_in, login_files(), problems)


def _api_key(problems: list[str]) -> Credentials | None:
    """Return user name and key: each from its variable, else from kaggle.json."""
    variables = API_KEY_VARIABLES
    given = {name: trim(os.environ.get(variable, "")) for name, variable in variables.items()}
    given = {name: value for name, value in given.items() if value}
    if len(given) == len(variables):
        try:
            return check_api_key(given, " and ".join(variables.values()), given)
        except CredentialError as error:
            raise KaggleError(str(error)) from None
    found = _first(partial(api_key_in, given=given), api_key_files(), problems)
    if found is None and given:
        is_set, is_not = sorted(variables, key=lambda name: name not in given)
        problems.append(f"the variable {variables[is_set]} is set, but {variables[is_not]} is not")
    return found


def _first(read: Callable[[Path], Credentials | None], paths: list[Path], problems: list[str]) -> Credentials | None:
    """Return the first credentials in some files; collect the problems of the others."""
    for path in paths:
        try:
            credentials = read(path)
        except CredentialError as error:
            if str(error) not in problems:
                problems.append(str(error))
            continue
        if credentials is not None:
            return credentials
    return None
