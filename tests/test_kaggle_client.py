"""The unmodified kaggle client, in this process, against a server on 127.0.0.1."""

import io
import os
import shlex
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from kaggle_server import KEY, KaggleServer, Response, make_home
from kagglesdk import kaggle_env

from pipeline.errors import KaggleError
from pipeline.submission.kaggle_client import KaggleClient, upload_command
from pipeline.submission.kaggle_zip import PartialDownload
from pipeline.task import CIFAR10


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home folder with an API key, and no other credentials."""
    return make_home(monkeypatch, tmp_path)


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
def folder(tmp_path):
    """An empty input folder."""
    path = tmp_path / "input"
    path.mkdir()
    return path


@pytest.fixture
def submission(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,label\n1,cat\n")
    return path


def files_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".download.lock")


def corrupted(data):
    """Return the bytes of a zip with one bit of train.7z flipped."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        member = archive.getinfo(CIFAR10.train_archive)
    flipped = bytearray(data)
    flipped[member.header_offset + 200 + member.compress_size // 2] ^= 0x10
    return bytes(flipped)


def enlarged(data):
    """Return the bytes of a zip with 3 MB more; the client saves and resumes whole MB."""
    large = io.BytesIO(data)
    with zipfile.ZipFile(large, "a") as archive:
        archive.writestr("more", bytes(3 << 20))
    return large.getvalue()


def test_zip_is_downloaded_once(server, client, tmp_path, capsys):
    path = client.download(tmp_path / "input")

    assert path == tmp_path / "input" / CIFAR10.zip_name
    assert path.read_bytes() == server.zip_bytes
    assert client.download(tmp_path / "input") == path
    assert server.names() == ["DownloadDataFiles", "GET"]
    assert files_in(path.parent) == [CIFAR10.zip_name]
    assert capsys.readouterr().out == ""


def test_again_downloads_a_valid_zip_again(server, client, folder):
    path = client.download(folder)
    client.download(folder, again=True)

    assert server.names() == ["DownloadDataFiles", "GET"] * 2
    assert files_in(folder) == [CIFAR10.zip_name]
    assert path.read_bytes() == server.zip_bytes


def test_zip_with_one_flipped_bit_is_downloaded_again(server, client, folder, caplog):
    path = folder / CIFAR10.zip_name
    path.write_bytes(corrupted(server.zip_bytes))
    client.download(folder)

    assert path.read_bytes() == server.zip_bytes
    assert server.received[-1] == ("GET", {"start": 0})
    assert "cifar-10.zip is corrupted: the checksum of train.7z is wrong; downloading it again" in caplog.text


def test_answer_that_is_not_a_zip_is_reported_and_leaves_no_file(server, client, folder):
    server.faults["DownloadDataFiles"] = [Response(200, "hi")]

    with pytest.raises(KaggleError, match=r"^something else than Kaggle's zip arrived; a proxy or the login page"):
        client.download(folder)
    assert files_in(folder) == []
    assert client.download(folder).exists()


@pytest.mark.parametrize("again", [False, True])
def test_download_with_a_wrong_checksum_does_not_replace_the_old_file(server, client, folder, again):
    path = folder / CIFAR10.zip_name
    old = server.zip_bytes if again else b"an incomplete download"
    path.write_bytes(old)
    good, server.zip_bytes = server.zip_bytes, corrupted(server.zip_bytes)
    with pytest.raises(KaggleError, match=r"downloaded from Kaggle, is corrupted: the checksum of train\.7z is wrong"):
        client.download(folder, again=again)
    assert files_in(folder) == [CIFAR10.zip_name]
    assert path.read_bytes() == old
    server.zip_bytes = good

    client.download(folder, again=again)
    assert path.read_bytes() == good


def test_interrupted_download_resumes(server, client, folder):
    server.zip_bytes = enlarged(server.zip_bytes)
    server.faults["GET"] = [Response(close_after=2 << 20)]
    path = client.download(folder)

    assert path.read_bytes() == server.zip_bytes
    assert server.received[-1] == ("GET", {"start": 2 << 20})
    assert files_in(path.parent) == [CIFAR10.zip_name]


@pytest.mark.parametrize("again", [False, True])
def test_download_of_another_process_resumes(server, client, folder, again):
    server.zip_bytes = enlarged(server.zip_bytes)
    server.faults["GET"] = [Response(close_after=2 << 20), Response(403, "signature expired")]
    with pytest.raises(KaggleError, match="403: signature expired"):
        client.download(folder, again=again)
    path = KaggleClient(CIFAR10, request_timeout=5).download(folder, again=again)

    assert path.read_bytes() == server.zip_bytes
    assert server.received[-1] == ("GET", {"start": 2 << 20})


def test_stalled_download_resumes(server, folder, sleeps):
    server.zip_bytes = enlarged(server.zip_bytes)
    ends = threading.Event()
    server.faults["GET"] = [Response(close_after=2 << 20, hold=ends)]
    try:
        path = KaggleClient(CIFAR10, request_timeout=0.5, sleep=sleeps.append).download(folder)
    finally:
        ends.set()

    assert path.read_bytes() == server.zip_bytes
    assert server.received[-1] == ("GET", {"start": 2 << 20})


def test_two_downloads_at_once_download_one_file(server, client, folder):
    clients = [KaggleClient(CIFAR10, request_timeout=5), KaggleClient(CIFAR10, request_timeout=5)]
    client.num_allowed()  # imports the client, which one thread should do
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda each: each.download(folder), clients))

    assert paths[0] == paths[1]
    assert server.names().count("GET") == 1


def test_web_page_instead_of_the_zip_is_not_saved(server, client, folder):
    (folder / CIFAR10.zip_name).write_bytes(b"an incomplete download")
    server.zip_bytes = b"<html>please log in</html>"

    with pytest.raises(
        KaggleError,
        match=r"cifar-10\.zip, downloaded from Kaggle, is not a valid zip file but a web page; it was not saved",
    ):
        client.download(folder)
    assert (folder / CIFAR10.zip_name).read_bytes() == b"an incomplete download"


@pytest.mark.parametrize("name", ["DownloadDataFiles", "GET"])
@pytest.mark.parametrize("status", [200, 403, 511])
def test_login_page_of_a_network_is_reported_at_once(server, client, folder, sleeps, name, status):
    server.faults[name] = [Response(status, html="<html>please log in</html>")]

    with pytest.raises(KaggleError, match=r"^a web page arrived, not the answer of Kaggle's API.* in a browser"):
        client.download(folder)
    assert sleeps == []
    assert client.download(folder).exists()


@pytest.mark.parametrize(
    ("name", "is_folder", "message"),
    [
        ("input", False, r"input: is in the way, expected a folder"),
        ("input/.download", False, r"\.download: is in the way, expected a folder"),
        ("input/cifar-10.zip", True, r"cifar-10\.zip: is a folder, expected a file"),
        ("input/.download/cifar-10.zip", True, r"\.download/cifar-10\.zip: is a folder, expected a file"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_what_is_in_the_way_of_a_download_is_named(server, client, folder, name, is_folder, message, again):
    path = folder.parent / name
    folder.rmdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if is_folder else path.write_text("x")

    with pytest.raises(KaggleError, match=message) as caught:
        client.download(folder, again=again)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_files_in_the_folder_of_a_download_are_kept(server, client, folder):
    (folder / ".download" / "folder").mkdir(parents=True)
    client.download(folder)

    assert files_in(folder) == [".download", CIFAR10.zip_name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_full_disk_ends_a_download_at_once(server, client, folder, sleeps, monkeypatch):
    (folder / ".download").mkdir()
    (folder / ".download" / "cifar-10.zip").symlink_to("/dev/full")
    monkeypatch.setattr(PartialDownload, "prepare", lambda self: None)

    with pytest.raises(KaggleError, match=r"\.download: disk full \(No space left on device\); free some space"):
        client.download(folder)
    assert sleeps == []


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


@pytest.mark.parametrize("ref", ["", "abc", "0", "-1", "1.5"])
def test_upload_without_a_reference_number_is_an_error(monkeypatch, client, submission, ref):
    api = SimpleNamespace(competition_submit=lambda *_, **__: SimpleNamespace(ref=ref, message="try later"))
    monkeypatch.setattr(client, "_call", lambda call, _timeout: call(api))

    with pytest.raises(KaggleError, match=r"submission\.csv was interrupted \(try later\)"):
        client.upload(submission, "message [sha256:abc]", "sha256:abc")


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
        (403, "Verify your phone number", r"403: Verify your phone number\)\. See https://www\.kaggle\.com/settings"),
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


def test_rejected_token_without_a_key_is_not_called_missing(server, client, home, monkeypatch):
    (home / "kaggle.json").unlink()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_a-token-that-was-deleted")
    server.faults["IntrospectToken"] = [Response(403, "no such token") for _ in range(3)]

    with pytest.raises(KaggleError, match=r"^Kaggle rejected the credentials in the variable KAGGLE_API_TOKEN: "):
        client.num_allowed()


@pytest.mark.parametrize("value", ["KGAT_0123456789\r\n", "\ufeffKGAT_0123456789"])
def test_token_with_a_line_end_works(server, client, monkeypatch, value):
    monkeypatch.setenv("KAGGLE_API_TOKEN", value)

    assert client.num_allowed() == 5
    assert set(server.authorizations) == {"Bearer KGAT_0123456789"}


def test_token_of_two_lines_is_refused_before_the_client_sees_it(server, client, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789\nKGAT_0123456789")

    with pytest.raises(KaggleError, match="the variable KAGGLE_API_TOKEN has a line end in its middle") as caught:
        client.num_allowed()
    assert "0123456789" not in str(caught.value)
    assert server.authorizations == []


def test_key_is_used_beside_a_token_file_that_cannot_be_used(server, client, home):
    (home / "access_token").mkdir()

    assert client.num_allowed() == 5
    assert server.authorizations[0].startswith("Basic ")


def test_verbose_mode_of_the_client_does_not_print_headers(server, client, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VERBOSE", "1")
    client.download(tmp_path)
    printed = capsys.readouterr()

    assert "Authorization" not in printed.out + printed.err


def test_client_makes_no_folder_in_the_home_folder(server, home, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789")
    command = """
import sys
from kagglesdk import kaggle_env
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = sys.argv[1]
from pipeline.submission.kaggle_client import KaggleClient
from pipeline.task import CIFAR10
print(KaggleClient(CIFAR10).num_allowed())
"""
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", command, server.url],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr
    assert list(empty.iterdir()) == []
    assert server.names() == ["IntrospectToken", "GetSubmissionLimits"]


def test_account_outside_the_competition_is_told_to_accept_the_rules(server, client, monkeypatch):
    monkeypatch.setattr(server, "respond", lambda name, body: {})

    with pytest.raises(
        KaggleError, match=r"no submissions, today and in total\. Accept .*https://www\.kaggle\.com/c/cifar"
    ):
        client.num_allowed()


def test_upload_without_a_response_is_not_repeated(server, submission, sleeps):
    responds = threading.Event()
    server.faults["CreateSubmission"] = [Response(hold=responds)]
    client = KaggleClient(CIFAR10, sleep=sleeps.append)
    client.num_allowed()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.submission.kaggle_client.UPLOAD_TIMEOUT", 0.5)
            with pytest.raises(KaggleError, match=r"no response .*may arrive later\. Run the same command again"):
                client.upload(submission, "m [sha256:abc]", "sha256:abc")
    finally:
        responds.set()
    assert server.names().count("StartSubmissionUpload") == 1


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
        ([Response(429, "slow down", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})], [1]),
        ([Response(429, "slow down", {"Retry-After": "soon"})], [2]),
        ([Response(429, "slow down"), Response(429, "slow down")], [2, 4]),
        ([Response(500, "oops"), Response(close=True), Response(503, "busy")], [2, 4, 8]),
    ],
    ids=["429 with Retry-After", "a date", "nonsense", "429", "5xx and a closed connection"],
)
def test_retries_back_off_and_respect_retry_after(server, client, sleeps, faults, expected):
    server.faults["GetSubmissionLimits"] = list(faults)

    assert client.num_allowed() == 5
    assert sleeps == expected


def test_retries_end_before_a_long_retry_after(server, sleeps):
    server.faults["GetSubmissionLimits"] = [Response(429, "slow down", {"Retry-After": "3600"})]

    with pytest.raises(
        KaggleError, match=r"submission limits, retried for up to 30 s \(status 429, retry after 3600 s\).*nothing was"
    ):
        KaggleClient(CIFAR10, retry_timeout=30, sleep=sleeps.append).num_allowed()
    assert sleeps == []


def test_missing_network_is_reported(monkeypatch, sleeps):
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:1")

    with pytest.raises(
        KaggleError, match=r"request to Kaggle failed: .* for up to 0 s .*ConnectionError.*refused.*Check your network"
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
