"""The kaggle client, imported and authenticated so that it uses nothing but the credentials that were checked.

Traps of the client, written for kaggle 2.2.5. Importing it makes a folder, reads credentials, calls Kaggle without a
time-out, and prints headers with credentials if the variable VERBOSE is set. Later it reads token files again for
every call, and any variable KAGGLE_X changes its configuration.
"""

import contextlib
import copy
import io
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import KaggleError
from pipeline.submission.credential_values import Credentials
from pipeline.submission.find_credentials import SETTINGS_PAGE

if TYPE_CHECKING:
    import requests

NO_HOME = str(Path(__file__).parent)  # a folder that exists, can be read, and contains no credentials
HOME_VARIABLES = ("HOME", "USERPROFILE")
KEPT = ("KAGGLE_API_ENVIRONMENT",)
WEB_PAGE = "a web page arrived, not the answer of Kaggle's API"
ANOTHER_SENDER = (
    "a proxy or the login page of your network may have sent it: open https://www.kaggle.com in a browser on this "
    "machine, then run the same command again"
)


class WebPageError(KaggleError):
    """A web page in place of an answer of Kaggle's API."""


def import_client() -> None:
    """Import the client where it finds no credentials: so it calls nobody, and makes no folder."""
    with client_environment({}, hide_home=True), contextlib.redirect_stdout(io.StringIO()):
        import kaggle  # noqa: F401


def open_api(credentials: Credentials) -> Any:
    """Return the client's API object, authenticated. Raises KaggleError, and whatever the client does."""
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    api.get_response_processor = lambda: check_response
    try:
        api.authenticate()
    except SystemExit:
        raise KaggleError(
            f"Kaggle rejected the credentials in {credentials.origin}: they are wrong or have expired. "
            f"Make new ones on {SETTINGS_PAGE}"
        ) from None
    return api


def for_download(api: Any, timeout: float) -> Any:
    """Return the API object for a download: one attempt, which ends when no data arrives for some seconds.

    The client's own attempts would also repeat a local error, such as a full disk.
    """
    downloading = copy.copy(api)

    def build_client() -> Any:
        client = api.build_kaggle_client()
        http = client.http_client()
        http._init_session()
        http._session.send = partial(http._session.send, timeout=timeout)
        return client

    def download_needed(response: "requests.Response", outfile: str, quiet: bool) -> bool:
        # The client names the file by the end of the address that answered.
        if Path(outfile).suffix != ".zip":
            response.close()
            raise WebPageError(f"something else than Kaggle's zip arrived; {ANOTHER_SENDER}")
        return bool(api.download_needed(response, outfile, quiet))

    downloading.build_kaggle_client = build_client
    downloading.download_needed = download_needed
    downloading.download_file = partial(api.download_file, max_retries=0)
    return downloading


def for_output(api: Any) -> Any:
    """Return the API object for the files of a kernel: one attempt, as for_download."""
    downloading = copy.copy(api)
    downloading.download_file = partial(api.download_file, max_retries=0)
    return downloading


def user_name(api: Any) -> str:
    """Return the user name of the account; an empty string if the client has none."""
    return str(api.get_config_value(api.CONFIG_NAME_USER) or "")


@contextlib.contextmanager
def client_environment(variables: Mapping[str, str], *, hide_home: bool) -> Iterator[None]:
    """Run the block with these variables for the client and no others; optionally without the files in HOME."""
    changes: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("KAGGLE_") and name not in KEPT
    }
    changes |= {"VERBOSE": None, "VERBOSE_OUTPUT": None, "KAGGLE_CONFIG_DIR": NO_HOME}
    if hide_home:
        changes |= dict.fromkeys(HOME_VARIABLES, NO_HOME)
    changes |= variables
    before = {name: os.environ.get(name) for name in changes}
    _set_variables(changes)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def check_response(response: "requests.Response") -> None:
    """Raise WebPageError for a page of HTML, and requests.HTTPError for a status that the client does not expect."""
    import requests

    if is_web_page(response):
        response.close()  # the client closes no response of a download
        raise WebPageError(f"{WEB_PAGE}; {ANOTHER_SENDER}")
    if response.status_code >= 300:  # no place to be redirected to
        raise requests.HTTPError(f"unexpected status {response.status_code}", response=response)


def is_web_page(response: "requests.Response") -> bool:
    """Whether a response is a page of HTML."""
    return "html" in response.headers.get("Content-Type", "").lower()
