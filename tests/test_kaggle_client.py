"""The unmodified kaggle client, in this process, against a server on 127.0.0.1."""

import io
import json
import shlex
import threading
import zipfile

import pytest
from kaggle_server import KaggleServer, Response
from kagglesdk import kaggle_env

from pipeline.errors import KaggleError
from pipeline.submission.kaggle_client import KaggleClient, upload_command
from pipeline.task import CIFAR10

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home folder with an API key, and no other credentials."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home" / ".kaggle"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "kaggle.json").write_text(json.dumps({"username": "somebody", "key": KEY}))
    (folder / "kaggle.json").chmod(0o600)
    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "config", str(folder / "kaggle.json"))  # set when kaggle is imported
    return folder


@pytest.fixture
def server(monkeypatch, zip_folder):
    with KaggleServer((zip_folder / CIFAR10.zip_name).read_bytes()).running() as server:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
        yield server


@pytest.fixture
def sleeps():
    return []


@pytest.fixture
def client(sleeps):
    return KaggleClient(CIFAR10, request_timeout=5, retry_timeout=30, sleep=sleeps.append)


@pytest.fixture
def submission(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,label\n1,cat\n")
    return path


def test_zip_is_downloaded_once(server, client, tmp_path):
    path = client.download(tmp_path / "input")

    assert path == tmp_path / "input" / CIFAR10.zip_name
    assert path.read_bytes() == server.zip_bytes
    assert client.download(tmp_path / "input") == path
    assert server.names() == ["DownloadDataFiles", "GET"]
    assert [file.name for file in path.parent.iterdir()] == [CIFAR10.zip_name]


def test_interrupted_download_resumes(server, client, tmp_path):
    large = io.BytesIO(server.zip_bytes)
    with zipfile.ZipFile(large, "a") as archive:
        archive.writestr("more", bytes(3 << 20))
    server.zip_bytes = large.getvalue()
    server.faults["GET"] = [Response(close_after=2 << 20)]
    path = client.download(tmp_path / "input")

    assert path.read_bytes() == server.zip_bytes
    assert server.received[-1] == ("GET", {"start": 2 << 20})  # the client saves whole MB
    assert [file.name for file in path.parent.iterdir()] == [CIFAR10.zip_name]


def test_web_page_instead_of_the_zip_is_not_saved(server, client, tmp_path):
    (tmp_path / CIFAR10.zip_name).write_bytes(b"an incomplete download")
    server.zip_bytes = b"<html>please log in</html>"

    with pytest.raises(
        KaggleError, match=r"cifar-10\.zip, downloaded from Kaggle, is not a valid zip file; it was not saved"
    ):
        client.download(tmp_path)
    assert (tmp_path / CIFAR10.zip_name).read_bytes() == b"an incomplete download"


def test_submission_arrives_once_with_its_message(server, client, submission):
    ref = client.upload(submission, "quick, CV 0.81 [sha256:abc]", "sha256:abc")

    assert ref == 1000
    assert server.names() == ["StartSubmissionUpload", "CreateSubmission"]
    assert list(server.uploads.values()) == [submission.read_bytes()]
    assert server.submissions[0]["description"] == "quick, CV 0.81 [sha256:abc]"
    assert client.find("sha256:abc").ref == 1000
    assert client.find("sha256:other") is None


def test_upload_with_a_lost_response_is_found_and_not_repeated(server, client, submission):
    server.faults["CreateSubmission"] = [Response(close=True, process_first=True)]

    assert client.upload(submission, "message [sha256:abc]", "sha256:abc") == 1000
    assert len(server.submissions) == 1
    assert server.names() == ["StartSubmissionUpload", "CreateSubmission", "ListSubmissions"]


@pytest.mark.parametrize(
    "fault", [Response(close=True), Response(500, "oops"), Response(503, "busy")], ids=["closed", "500", "503"]
)
def test_upload_that_did_not_arrive_is_repeated(server, client, submission, fault):
    server.faults["CreateSubmission"] = [fault]

    assert client.upload(submission, "message [sha256:abc]", "sha256:abc") == 1000
    assert len(server.submissions) == 1
    assert server.names().count("CreateSubmission") == 1


def test_upload_fails_after_three_interruptions(server, client, submission):
    server.faults["CreateSubmission"] = [Response(close=True) for _ in range(9)]

    with pytest.raises(KaggleError, match=r"was interrupted 3 times, and Kaggle lists no submission of it"):
        client.upload(submission, "message [sha256:abc]", "sha256:abc")
    assert server.submissions == []


def test_rejected_file_is_not_a_submission(server, client, submission):
    server.faults["PUT"] = [Response(403, "signature expired") for _ in range(20)]

    with pytest.raises(KaggleError, match=r"submission\.csv was interrupted .*Kaggle has no submission of it"):
        client.upload(submission, "message [sha256:abc]", "sha256:abc")
    assert server.submissions == []


def test_wait_returns_the_score(server, client, sleeps, submission):
    server.polls_until_scored = 3
    score = client.wait(client.upload(submission, "m [sha256:abc]", "sha256:abc"), 60)

    assert (score.status, score.public, score.private) == ("complete", 0.81, 0.82)
    assert sleeps == [2, 4]


def test_wait_times_out(server, client, sleeps, submission):
    server.polls_until_scored = 1000
    ref = client.upload(submission, "m [sha256:abc]", "sha256:abc")

    assert client.wait(ref, 1.0).status == "pending"
    assert sleeps == []


def test_scoring_error_comes_with_its_reason(server, client, submission):
    server.error = "row 7 has an unknown label"
    score = client.wait(client.upload(submission, "m [sha256:abc]", "sha256:abc"), 60)

    assert (score.status, score.reason, score.public) == ("error", "row 7 has an unknown label", None)


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, "Unauthorized", r"rejected the credentials \(401.*wrong or has expired. Make a new one"),
        (
            403,
            "You must accept this competition's rules",
            r"403: You must accept.*https://www\.kaggle\.com/c/cifar-10/rules",
        ),
        (404, "Not found", r"404.*the competition cifar-10 is closed, or has another name"),
        (400, "Submission limit reached: 5 per day", r"limit reached: 5 per day .*is reset at 00:00 UTC"),
    ],
)
def test_rejection_is_raised_without_retries_and_has_a_remedy(server, client, submission, status, text, message):
    server.faults["StartSubmissionUpload"] = [Response(status, text)]

    with pytest.raises(KaggleError, match=message) as caught:
        client.upload(submission, "m [sha256:abc]", "sha256:abc")
    assert "\n" not in str(caught.value)
    assert server.names() == []


def test_expired_token_that_takes_precedence_over_a_key_is_named(server, client, monkeypatch, home):
    (home / "access_token").write_text("an-expired-token-of-some-length")
    (home / "access_token").chmod(0o600)
    server.faults["IntrospectToken"] = [Response(401, "expired") for _ in range(3)]
    server.faults["GetSubmissionLimits"] = [Response(401, "Unauthorized")]

    with pytest.raises(KaggleError, match=r"The token in .*access_token takes precedence over the API key"):
        client.num_allowed()


def test_missing_credentials_error_lists_all_ways_and_the_files_looked_for(server, client, home, capsys):
    (home / "kaggle.json").unlink()

    with pytest.raises(
        KaggleError, match=r"no Kaggle credentials.*KAGGLE_API_TOKEN.*kaggle auth login.*Looked for: "
    ) as caught:
        client.num_allowed()
    assert str(home / "kaggle.json") in str(caught.value)
    assert server.names() == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([Response(429, "slow down", {"Retry-After": "7"})], [7]),
        ([Response(429, "slow down"), Response(429, "slow down")], [2, 4]),
        ([Response(500, "oops"), Response(close=True), Response(503, "busy")], [2, 4, 8]),
    ],
    ids=["429 with Retry-After", "429", "5xx and a closed connection"],
)
def test_retries_back_off_and_respect_retry_after(server, client, sleeps, faults, expected):
    server.faults["GetSubmissionLimits"] = list(faults)

    assert client.num_allowed() == 5
    assert sleeps == expected


def test_retries_end_before_a_long_retry_after(server, sleeps):
    server.faults["GetSubmissionLimits"] = [Response(429, "slow down", {"Retry-After": "3600"})]

    with pytest.raises(
        KaggleError, match=r"request to Kaggle failed: submission limits, for 30 s \(status 429\).*nothing was lost"
    ):
        KaggleClient(CIFAR10, retry_timeout=30, sleep=sleeps.append).num_allowed()
    assert sleeps == []


def test_missing_network_is_reported(monkeypatch, sleeps):
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:1")

    with pytest.raises(
        KaggleError, match=r"request to Kaggle failed: .* for 0 s .*ConnectionError.*Check your network"
    ):
        KaggleClient(CIFAR10, retry_timeout=0, sleep=sleeps.append).num_allowed()


def test_request_times_out_without_a_response(server, sleeps):
    responds = threading.Event()
    server.faults["GetSubmissionLimits"] = [Response(hold=responds)]
    try:
        with pytest.raises(KaggleError, match=r"TimeoutError: no response in 0 s"):
            KaggleClient(CIFAR10, request_timeout=0.3, retry_timeout=0, sleep=sleeps.append).num_allowed()
    finally:
        responds.set()


def test_credentials_are_redacted_in_errors(server, client, submission):
    server.faults["StartSubmissionUpload"] = [Response(403, f"key {KEY} of somebody is not welcome")]

    with pytest.raises(KaggleError) as caught:
        client.upload(submission, "m [sha256:abc]", "sha256:abc")
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)
    assert server.authorizations[0].startswith("Basic ")


def test_key_that_others_can_read_is_a_warning(server, client, home, caplog):
    (home / "kaggle.json").chmod(0o644)
    client.num_allowed()

    assert f"chmod 600 {home / 'kaggle.json'}" in caplog.text


def test_upload_command_is_quoted_for_the_shell(tmp_path):
    command = upload_command(tmp_path / "submission.csv", 'it\'s "quick"; rm -rf', CIFAR10)

    assert shlex.split(command)[-1] == 'it\'s "quick"; rm -rf'
    assert shlex.split(command)[:5] == ["kaggle", "competitions", "submit", "-c", "cifar-10"]
