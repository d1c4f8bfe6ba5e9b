"""Credentials in every form that people have them in: they work, or one line names the file and what is wrong."""

import base64
import json
import logging
import os
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import KaggleError
from pipeline.submission import kaggle_credentials
from pipeline.submission.find_credentials import find_credentials
from pipeline.submission.kaggle_credentials import redacted, warn_of_readable_credentials
from pipeline.submission.kaggle_session import client_environment
from pipeline.submission.network_settings import proxies

KEY = "0123456789abcdef0123456789abcdef"
TOKEN = "KGAT_" + KEY
API_KEY = json.dumps({"username": "somebody", "key": KEY})
LOGIN = {
    "refresh_token": "r" * 40,
    "access_token": "a" * 40,
    "access_token_expiration": "2030-01-01T00:00:00+00:00",
    "username": "somebody",
    "scopes": [],
}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty home folder, and no variables with credentials."""
    for name in list(os.environ):
        if name.startswith("KAGGLE_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def save(path, content):
    """Write a file of credentials; None is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "content",
    [
        TOKEN,
        f"  {TOKEN} \r\n",
        b"\xef\xbb\xbf" + TOKEN.encode(),
        f"{TOKEN}\r\n".encode("utf-16"),
        TOKEN.encode("utf-16-le"),
        TOKEN.encode("utf-16-be"),
        TOKEN.encode("utf-32"),
        f"{TOKEN}\u00a0\u200b".encode(),
    ],
    ids=["plain", "CRLF", "BOM", "UTF-16", "UTF-16 LE", "UTF-16 BE", "UTF-32", "invisible characters"],
)
def test_token_file_in_any_encoding_works(home, content):
    path = save(home / ".kaggle" / "access_token", content)
    credentials = find_credentials()

    assert credentials.variables == {"KAGGLE_API_TOKEN": TOKEN}
    assert credentials.origin == str(path)


@pytest.mark.parametrize("value", [f"{TOKEN}\n", f"{TOKEN}\r\n", f" {TOKEN}", f"\ufeff{TOKEN}", f"{TOKEN}\u200b"])
def test_token_variable_with_space_around_it_works(monkeypatch, value):
    monkeypatch.setenv("KAGGLE_API_TOKEN", value)

    assert find_credentials().variables == {"KAGGLE_API_TOKEN": TOKEN}


@pytest.mark.parametrize("value", ["{home}/a token", "~/a token"])
def test_token_variable_may_be_a_path(home, monkeypatch, value):
    save(home / "a token", f"{TOKEN}\n")
    monkeypatch.setenv("KAGGLE_API_TOKEN", value.format(home=home))

    assert find_credentials().variables == {"KAGGLE_API_TOKEN": TOKEN}


def test_long_token_is_handed_over_as_the_path_of_its_file(home):
    path = save(home / ".kaggle" / "access_token", "e" * 1000)

    assert find_credentials().variables == {"KAGGLE_API_TOKEN": str(path)}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f"KGAT_\n{KEY}", "has a line end in its middle"),
        (f"KGAT_\r{KEY}", "has a line end in its middle"),
        (f"KGAT_ {KEY}", "has a space in its middle"),
        (f"Bearer {TOKEN}", "has a space in its middle"),
        (f'"{TOKEN}"', "has quotation marks around it"),
        (f"\u201c{TOKEN}\u201d", "has quotation marks around it"),
        (f"KGAT_ü{KEY}", "has a character that is not printable ASCII"),
        (f"KGAT_€{KEY}", "has a character that is not printable ASCII"),
        (f"\x1b[0m{TOKEN}", "has a character that is not printable ASCII"),
        (f"{TOKEN}\\n", r"has the unexpected character \\"),
        (f"KAGGLE_API_TOKEN={TOKEN}", "has the unexpected character ="),
        (API_KEY, "contains JSON, which belongs in ~/.kaggle/kaggle.json"),
        ("a" * 400, "has 400 characters, the client takes 200; save the token to ~/.kaggle/access_token"),
        ("no/such/file", "is neither a token nor the path of a file with one"),
        ("~/nothing", "is neither a token nor the path of a file with one"),
    ],
)
def test_unusable_token_variable_is_one_line_without_the_token(home, monkeypatch, value, problem):
    save(home / ".kaggle" / "kaggle.json", API_KEY)
    monkeypatch.setenv("KAGGLE_API_TOKEN", value)

    with pytest.raises(KaggleError, match=f"^the variable KAGGLE_API_TOKEN {problem}") as caught:
        find_credentials()
    assert KEY not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("access_token", "", "access_token is empty"),
        ("access_token", b"\xef\xbb\xbf", "access_token is empty"),
        ("access_token", None, "access_token is a folder, expected a file"),
        ("access_token", b"KGAT_\xfc", r"access_token is not text in UTF-8 \(byte 0xfc at position 5\)"),
        ("access_token", f"{TOKEN}\n{TOKEN}", "access_token has a line end in its middle"),
        ("access_token", API_KEY, "access_token contains JSON, which belongs in ~/.kaggle/kaggle.json"),
        ("access_token", b"a" * 100_000, "access_token has more than 65,536 bytes"),
        ("kaggle.json", "", 'kaggle.json is empty; expected {"username": "...", "key": "..."}'),
        ("kaggle.json", None, "kaggle.json is a folder, expected a file"),
        ("kaggle.json", "username: somebody", r"kaggle.json is not JSON \(Expecting value, line 1\)"),
        ("kaggle.json", "{'username': 'somebody'}", "kaggle.json is not JSON .*enclosed in double quotes"),
        ("kaggle.json", "[1]", "kaggle.json contains a list"),
        ("kaggle.json", "null", "kaggle.json contains null"),
        ("kaggle.json", "[" * 60_000, "kaggle.json is not JSON of credentials"),
        ("kaggle.json", "1" * 5000, "kaggle.json is not JSON of credentials"),
        ("kaggle.json", TOKEN, "kaggle.json contains an access token, not JSON"),
        ("kaggle.json", '{"username": "somebody"}', "'key' in .*kaggle.json is missing or empty"),
        ("kaggle.json", '{"username": "somebody", "key": null}', "'key' in .*kaggle.json is null"),
        ("kaggle.json", '{"username": "somebody", "key": 5}', "'key' in .*kaggle.json is a number"),
        ("kaggle.json", json.dumps({"username": "", "key": KEY}), "'username' in .*kaggle.json is missing or empty"),
        ("kaggle.json", json.dumps({"username": "\U0001f600", "key": KEY}), "'username' in .* is not printable ASCII"),
        ("kaggle.json", json.dumps({"username": "a:b", "key": KEY}), "'username' in .* has the unexpected character :"),
        ("kaggle.json", json.dumps({"username": "a", "key": f"0\n{KEY}"}), "'key' in .* has a line end in its middle"),
        ("credentials.json", "", "credentials.json is empty; run `kaggle auth login` again"),
        ("credentials.json", "[]", "credentials.json contains a list; run `kaggle auth login` again"),
        ("credentials.json", "{}", "credentials.json has no refresh_token; run `kaggle auth login` again"),
        (
            "credentials.json",
            json.dumps(LOGIN | {"access_token_expiration": "2030-01-01T00:00:00"}),
            "credentials.json has an invalid access token or expiration date; run `kaggle auth login` again",
        ),
        (
            "credentials.json",
            b"\xef\xbb\xbf" + json.dumps(LOGIN).encode(),
            "credentials.json has a byte order mark, which the client does not read",
        ),
    ],
)
def test_unusable_file_is_named_and_not_called_missing(home, name, content, problem):
    save(home / ".kaggle" / name, content)

    with pytest.raises(
        KaggleError, match=rf"^no usable Kaggle credentials: .*{problem}.*kaggle\.com/settings$"
    ) as caught:
        find_credentials()
    assert KEY not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_unusable_file_is_a_warning_beside_usable_credentials(home, caplog):
    save(home / ".kaggle" / "access_token", None)
    path = save(home / ".kaggle" / "kaggle.json", API_KEY)

    assert find_credentials().kind == "key"
    assert f"access_token is a folder, expected a file; using {path}" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        API_KEY,
        b"\xef\xbb\xbf" + API_KEY.encode(),
        API_KEY.encode("utf-16"),
        json.dumps({"username": "somebody\n", "key": f"{KEY}\r\n"}),
    ],
    ids=["plain", "BOM", "UTF-16", "line ends"],
)
@pytest.mark.parametrize("folder", [".kaggle", ".config/kaggle"])
def test_api_key_file_in_any_encoding_works(home, folder, content):
    save(home / folder / "kaggle.json", content)
    (home / ".kaggle").mkdir(exist_ok=True)

    assert find_credentials().variables == {"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": KEY}


def test_config_folder_of_the_client_comes_first(home, monkeypatch):
    save(home / ".kaggle" / "kaggle.json", API_KEY)
    path = save(home / "else" / "kaggle.json", json.dumps({"username": "other", "key": KEY}))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(path.parent))

    assert find_credentials().origin == str(path)


def test_variables_override_the_file(home, monkeypatch):
    save(home / ".kaggle" / "kaggle.json", API_KEY)
    monkeypatch.setenv("KAGGLE_USERNAME", "other")

    assert find_credentials().variables == {"KAGGLE_USERNAME": "other", "KAGGLE_KEY": KEY}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"KAGGLE_USERNAME": "somebody"}, "the variable KAGGLE_USERNAME is set, but KAGGLE_KEY is not"),
        ({"KAGGLE_KEY": KEY}, "the variable KAGGLE_KEY is set, but KAGGLE_USERNAME is not"),
        ({"KAGGLE_USERNAME": "a", "KAGGLE_KEY": f"0\n{KEY}"}, "^the variable KAGGLE_KEY has a line end in its middle"),
        (
            {"KAGGLE_USERNAME": "ü", "KAGGLE_KEY": KEY},
            "^the variable KAGGLE_USERNAME has a character that is not",
        ),
    ],
)
def test_unusable_api_key_in_variables_is_one_line(monkeypatch, variables, problem):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(KaggleError, match=problem) as caught:
        find_credentials()
    assert KEY not in str(caught.value)


def test_folder_of_credentials_that_is_a_file_is_named(home):
    save(home / ".kaggle", "x")

    with pytest.raises(KaggleError, match=r"no usable Kaggle credentials: .*\.kaggle is a file, expected a folder"):
        find_credentials()


@pytest.mark.parametrize("name", ["kaggle.json.txt", "kaggle (1).json"])
def test_file_with_a_similar_name_is_mentioned(home, name):
    save(home / ".kaggle" / name, API_KEY)

    with pytest.raises(KaggleError, match=r"there are no Kaggle credentials.*\. Rename .*kaggle") as caught:
        find_credentials()
    assert str(caught.value).endswith(f"{name}?")


@pytest.fixture
def no_home(monkeypatch):
    """A user without a home folder, as in a container with any --user."""

    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)


@pytest.mark.usefixtures("no_home")
def test_user_without_a_home_folder_gives_credentials_in_variables(monkeypatch):
    with pytest.raises(KaggleError, match=r"Looked for: only variables, as this user has no home folder \(HOME\)"):
        find_credentials()
    assert redacted("a text") == "a text"
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)

    assert find_credentials().kind == "token"
    assert redacted(TOKEN) == "***"


def test_client_sees_nothing_but_its_variables(home, monkeypatch):
    monkeypatch.setenv("KAGGLE_TOKEN", "x")
    monkeypatch.setenv("VERBOSE", "1")
    before = dict(os.environ)
    with client_environment({"KAGGLE_KEY": KEY}, hide_home=True):
        seen = {name for name in os.environ if name.startswith(("KAGGLE", "VERBOSE"))}
        hidden_home = Path.home()

    assert seen == {"KAGGLE_KEY", "KAGGLE_CONFIG_DIR"}
    assert hidden_home != home
    assert dict(os.environ) == before


SECRET_TEXTS = {
    "plain": "{secret}",
    "in a header": "Invalid header value b'Bearer {secret}\\r'",
    "in an address": "https://api.kaggle.com/{secret}/x",
    "in quotes": "'{secret}'",
}


@pytest.mark.parametrize("text", SECRET_TEXTS.values(), ids=SECRET_TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("access_token", "{secret}\r\n"),
        ("kaggle.json", '{{"username": "somebody", "key": "{secret}\\n"}}'),
        ("kaggle.json", '["{secret}"]'),
        ("kaggle.json", "{{'key': '{secret}'"),
        ("credentials.json", '{{"refresh_token": "{secret}", "scopes": []}}'),
        ("credentials.json", '{{"inner": {{"refresh_token": "{secret}"}}}}'),
    ],
)
def test_secret_of_any_file_is_redacted(home, name, content, encoding, text):
    secret = "5ecre7-5ecre7-5ecre7"
    save(home / ".kaggle" / name, content.format(secret=secret).encode(encoding))

    assert secret not in redacted(text.format(secret=secret))


@pytest.mark.parametrize("secret", ["p+ss/w=rd&%_9", "kéy-wïth-umläuts", "ends in a line\r\n", "\ufeffstarts-with-BOM"])
def test_secret_is_redacted_in_every_escaped_form(monkeypatch, secret):
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", secret)
    core = secret.strip().strip("\ufeff")
    forms = [
        core,
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        repr(secret.encode())[2:-1],
        json.dumps(secret)[1:-1],
        urllib.parse.quote(core, safe=""),
        urllib.parse.quote_plus(core),
        base64.b64encode(f"somebody:{core}".encode()).decode(),
        base64.b64encode(f"somebody:{secret}".encode()).decode(),
    ]

    assert [form for form in forms if form in redacted(f"<{form}>")] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"the token {TOKEN}.", "the token ***"),
        ("Authorization: Bearer abc.def-ghi\r\n", "Authorization: Bearer ***\r\n"),
        ("{'Authorization': 'Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg=='}", "{'Authorization': 'Basic ***'}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "***"),
        ("proxy http://user:password@host:3128 is off", "proxy http://***@host:3128 is off"),
        ("for url: https://storage/x.zip?Signature=abc&Expires=1", "for url: https://storage/x.zip?***"),
        ("exceeded with url: /x.zip?Signature=abc (Caused by", "exceeded with url: /x.zip?*** (Caused by"),
        ("Bearer token, basic usage, https://www.kaggle.com/c/cifar-10", None),
    ],
)
def test_whatever_has_the_form_of_a_secret_is_redacted(text, expected):
    assert redacted(text) == (text if expected is None else expected)


def test_path_of_a_token_file_is_not_redacted(home, monkeypatch):
    path = save(home / "a-long-name-of-a-file", TOKEN)
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))

    assert redacted(f"{path} is there") == f"{path} is there"


def test_redaction_survives_files_of_any_content(home, monkeypatch):
    for number, name in enumerate(("access_token", "kaggle.json", "credentials.json")):
        save(home / ".kaggle" / name, bytes(range(256)) * (number + 1))
    save(home / ".config" / "kaggle" / "kaggle.json", '{"key": "\\ud800-a-lone-surrogate"}')
    monkeypatch.setenv("KAGGLE_KEY", "a\udcff-byte-outside-utf-8")

    assert redacted("a text") == "a text"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_file_that_others_can_read_is_a_warning(home, caplog):
    path = save(home / ".kaggle" / "credentials.json", "{}")
    path.chmod(0o644)
    warn_of_readable_credentials()

    assert f"{path} can be read by other users of this machine: chmod 600 {path}" in caplog.text


def test_permissions_are_not_checked_on_windows(home, caplog, monkeypatch):
    save(home / ".kaggle" / "kaggle.json", API_KEY).chmod(0o644)
    monkeypatch.setattr(kaggle_credentials, "os", SimpleNamespace(name="nt"))
    with caplog.at_level(logging.WARNING):
        warn_of_readable_credentials()

    assert caplog.text == ""


@pytest.mark.parametrize("password", ["se/cretword99", "pa@sswordtail99", "plainword99"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_password_of_a_proxy_is_never_shown(monkeypatch, scheme, password):
    monkeypatch.setenv("https_proxy", f"{scheme}me:{password}@127.0.0.1:9")
    shown = redacted(proxies() + f" ProxyError: {scheme}me:{password}@127.0.0.1:9 Failed to parse: 'me:se'")

    assert "127.0.0.1:9" in shown
    for part in (password, password.rpartition("@")[2], password.rpartition("/")[2], "me:se"):
        assert part not in shown


def test_pipe_in_the_place_of_a_file_of_credentials_is_named(home):
    (home / ".kaggle").mkdir(exist_ok=True)
    os.mkfifo(home / ".kaggle" / "kaggle.json")

    with pytest.raises(KaggleError, match=r"kaggle\.json is neither a file nor a folder"):
        find_credentials()
