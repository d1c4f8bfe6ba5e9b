"""The unmodified kaggle client, in process, against a server on 127.0.0.1."""

import io
import json
import shlex
import threading
import zipfile

import pytest
from kaggle_server import Answer, KaggleServer
from kagglesdk import kaggle_env

from pipeline.submission import kaggle_client
from pipeline.task import ZIP_NAME
from pipeline.submission.kaggle_client import Kaggle
from pipeline.errors import KaggleError

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home of its own with a key, and no credentials from outside."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home" / ".kaggle"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "kaggle.json").write_text(json.dumps({"username": "somebody", "key": KEY}))
    (folder / "kaggle.json").chmod(0o600)
    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "config", str(folder / "kaggle.json"))  # found once, when kaggle is imported
    return folder


@pytest.fixture
def server(monkeypatch, zip_folder):
    with KaggleServer((zip_folder / ZIP_NAME).read_bytes()).running() as server:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
        yield server


@pytest.fixture
def naps():
    return []


@pytest.fixture
def kaggle(naps):
    return Kaggle(request_timeout=5, retry_timeout=30, sleep=naps.append)


@pytest.fixture
def submission(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,label\n1,cat\n")
    return path


def test_a_download_is_whole_and_not_fetched_twice(server, kaggle, tmp_path):
    path = kaggle.download(tmp_path / "input")

    assert path == tmp_path / "input" / ZIP_NAME
    assert path.read_bytes() == server.zip_bytes
    assert kaggle.download(tmp_path / "input") == path
    assert server.names() == ["DownloadDataFiles", "GET"]
    assert [p.name for p in path.parent.iterdir()] == [ZIP_NAME]


def test_a_download_that_breaks_goes_on_from_where_it_was(server, kaggle, tmp_path):
    large = io.BytesIO(server.zip_bytes)
    with zipfile.ZipFile(large, "a") as archive:
        archive.writestr("more", bytes(3 << 20))
    server.zip_bytes = large.getvalue()
    server.faults["GET"] = [Answer(cut_after=2 << 20)]
    path = kaggle.download(tmp_path / "input")

    assert path.read_bytes() == server.zip_bytes
    assert server.received[-1] == ("GET", {"start": 2 << 20})  # the client writes whole MB
    assert [p.name for p in path.parent.iterdir()] == [ZIP_NAME]


def test_a_web_page_in_place_of_the_zip_is_not_kept(server, kaggle, tmp_path):
    (tmp_path / ZIP_NAME).write_bytes(b"an old half")
    server.zip_bytes = b"<html>please log in</html>"

    with pytest.raises(KaggleError, match=r"what Kaggle sent as cifar-10\.zip is no whole zip; nothing was kept"):
        kaggle.download(tmp_path)
    assert (tmp_path / ZIP_NAME).read_bytes() == b"an old half"


def test_a_submission_arrives_once_with_its_message(server, kaggle, submission):
    ref = kaggle.upload(submission, "quick, CV 0.81 [sha256:abc]", "sha256:abc")

    assert ref == 1000
    assert server.names() == ["StartSubmissionUpload", "CreateSubmission"]
    assert list(server.uploads.values()) == [submission.read_bytes()]
    assert server.submissions[0]["description"] == "quick, CV 0.81 [sha256:abc]"
    assert kaggle.find("sha256:abc").ref == 1000
    assert kaggle.find("sha256:other") is None


def test_an_upload_whose_answer_is_lost_is_looked_up_and_not_sent_again(server, kaggle, submission):
    server.faults["CreateSubmission"] = [Answer(cut=True, accept_first=True)]

    assert kaggle.upload(submission, "message [sha256:abc]", "sha256:abc") == 1000
    assert len(server.submissions) == 1
    assert server.names() == ["StartSubmissionUpload", "CreateSubmission", "ListSubmissions"]


@pytest.mark.parametrize(
    "fault", [Answer(cut=True), Answer(500, "oops"), Answer(503, "busy")], ids=["cut", "500", "503"]
)
def test_an_upload_that_never_arrived_is_sent_again(server, kaggle, submission, fault):
    server.faults["CreateSubmission"] = [fault]

    assert kaggle.upload(submission, "message [sha256:abc]", "sha256:abc") == 1000
    assert len(server.submissions) == 1
    assert server.names().count("CreateSubmission") == 1


def test_a_connection_that_breaks_every_time_is_given_up(server, kaggle, submission):
    server.faults["CreateSubmission"] = [Answer(cut=True) for _ in range(9)]

    with pytest.raises(KaggleError, match=r"broke off 3 times, and Kaggle lists no submission of it"):
        kaggle.upload(submission, "message [sha256:abc]", "sha256:abc")
    assert server.submissions == []


def test_a_refused_file_is_no_submission(server, kaggle, submission):
    server.faults["PUT"] = [Answer(403, "signature expired") for _ in range(20)]

    with pytest.raises(KaggleError, match=r"submission\.csv broke off .*Kaggle has no submission of it"):
        kaggle.upload(submission, "message [sha256:abc]", "sha256:abc")
    assert server.submissions == []


def test_a_score_is_waited_for(server, kaggle, naps, submission):
    server.polls_until_scored = 3
    score = kaggle.wait(kaggle.upload(submission, "m [sha256:abc]", "sha256:abc"), 60)

    assert (score.status, score.public, score.private) == ("complete", 0.81, 0.82)
    assert naps == [2, 4]


def test_waiting_ends(server, kaggle, naps, submission):
    server.polls_until_scored = 1000
    ref = kaggle.upload(submission, "m [sha256:abc]", "sha256:abc")

    assert kaggle.wait(ref, 1.0).status == "pending"
    assert naps == []


def test_an_error_of_scoring_comes_with_its_reason(server, kaggle, submission):
    server.error = "row 7 has an unknown label"
    score = kaggle.wait(kaggle.upload(submission, "m [sha256:abc]", "sha256:abc"), 60)

    assert (score.status, score.reason, score.public) == ("error", "row 7 has an unknown label", None)


@pytest.mark.parametrize(
    ("status", "words", "message"),
    [
        (401, "Unauthorized", r"refuses the credentials \(401.*wrong or has expired. Make a new one"),
        (
            403,
            "You must accept this competition's rules",
            r"403: You must accept.*https://www\.kaggle\.com/c/cifar-10/rules",
        ),
        (404, "Not found", r"404.*the competition cifar-10 is closed, or has another name"),
        (400, "Submission limit reached: 5 per day", r"limit reached: 5 per day .*begins anew at 00:00 UTC"),
    ],
)
def test_a_no_is_said_once_with_what_to_do(server, kaggle, submission, status, words, message):
    server.faults["StartSubmissionUpload"] = [Answer(status, words)]

    with pytest.raises(KaggleError, match=message) as caught:
        kaggle.upload(submission, "m [sha256:abc]", "sha256:abc")
    assert "\n" not in str(caught.value)
    assert server.names() == []


def test_an_expired_token_that_shadows_a_key_is_named(server, kaggle, monkeypatch, home):
    (home / "access_token").write_text("an-expired-token-of-some-length")
    (home / "access_token").chmod(0o600)
    server.faults["IntrospectToken"] = [Answer(401, "expired") for _ in range(3)]
    server.faults["GetSubmissionLimits"] = [Answer(401, "Unauthorized")]

    with pytest.raises(KaggleError, match=r"The token in .*access_token is asked before any key, and shadows it"):
        kaggle.num_allowed()


def test_no_credentials_tells_all_ways_and_where_it_looked(server, kaggle, home, capsys):
    (home / "kaggle.json").unlink()

    with pytest.raises(
        KaggleError, match=r"no Kaggle credentials.*KAGGLE_API_TOKEN.*kaggle auth login.*Looked at: "
    ) as caught:
        kaggle.num_allowed()
    assert str(home / "kaggle.json") in str(caught.value)
    assert server.names() == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([Answer(429, "slow down", {"Retry-After": "7"})], [7]),
        ([Answer(429, "slow down"), Answer(429, "slow down")], [2, 4]),
        ([Answer(500, "oops"), Answer(cut=True), Answer(503, "busy")], [2, 4, 8]),
    ],
    ids=["429 with Retry-After", "429", "5xx and a cut"],
)
def test_later_is_waited_for_as_told(server, kaggle, naps, faults, expected):
    server.faults["GetSubmissionLimits"] = list(faults)

    assert kaggle.num_allowed() == 5
    assert naps == expected


def test_later_is_not_waited_for_for_ever(server, naps):
    server.faults["GetSubmissionLimits"] = [Answer(429, "slow down", {"Retry-After": "3600"})]

    with pytest.raises(KaggleError, match=r"not be had from Kaggle in 30 s \(it answered 429\).*nothing was lost"):
        Kaggle(retry_timeout=30, sleep=naps.append).num_allowed()
    assert naps == []


def test_no_network_is_said(monkeypatch, naps):
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:1")

    with pytest.raises(KaggleError, match=r"could not be had from Kaggle in 0 s .*ConnectionError.*See to the network"):
        Kaggle(retry_timeout=0, sleep=naps.append).num_allowed()


def test_a_service_that_never_answers_is_left(server, naps):
    release = threading.Event()
    server.faults["GetSubmissionLimits"] = [Answer(hold=release)]
    try:
        with pytest.raises(KaggleError, match=r"TimeoutError: no answer in 0 s"):
            Kaggle(request_timeout=0.3, retry_timeout=0, sleep=naps.append).num_allowed()
    finally:
        release.set()


def test_credentials_are_in_no_error(server, kaggle, submission):
    server.faults["StartSubmissionUpload"] = [Answer(403, f"key {KEY} of somebody is not welcome")]

    with pytest.raises(KaggleError) as caught:
        kaggle.upload(submission, "m [sha256:abc]", "sha256:abc")
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)
    assert server.authorizations[0].startswith("Basic ")


def test_a_key_that_others_can_read_is_warned_about(server, kaggle, home, caplog):
    (home / "kaggle.json").chmod(0o644)
    kaggle.num_allowed()

    assert f"chmod 600 {home / 'kaggle.json'}" in caplog.text


def test_the_upload_line_survives_the_shell(tmp_path):
    line = kaggle_api.upload_command(tmp_path / "submission.csv", 'it\'s "quick"; rm -rf')

    assert shlex.split(line)[-1] == 'it\'s "quick"; rm -rf'
    assert shlex.split(line)[:5] == ["kaggle", "competitions", "submit", "-c", "cifar-10"]
