"""One file is one submission, whatever fails in between. Kaggle is a fake here; see test_kaggle_client.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import KaggleError
from pipeline.ledger import Ledger
from pipeline.submission.kaggle_answers import Score
from pipeline.submission.upload import refresh, submit


class FakeClient:
    """Record messages; with `interrupt` the upload raises, before or after the submission arrived."""

    def __init__(self):
        self.messages, self.interrupt, self.allowed, self.result = [], None, 5, ("complete", 0.81, 0.82, "")

    def num_allowed(self):
        return self.allowed

    def upload(self, file, message, tag):
        assert tag in message
        if self.interrupt == "before":
            raise KeyboardInterrupt
        self.messages.append(message)
        if self.interrupt == "after":
            raise KeyboardInterrupt
        return len(self.messages)

    def find(self, text):
        refs = [ref for ref, message in enumerate(self.messages, start=1) if text in message]
        return Score(refs[-1], "pending", None, None, "") if refs else None

    def score(self, ref):
        return Score(ref, *self.result)

    def wait(self, ref, timeout):
        return self.score(ref)


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "submissions")


@pytest.fixture
def send(client, ledger, tmp_path):
    file = tmp_path / "submission.csv"
    file.write_text("id,label\n1,cat\n")

    def call(*, again=False, wait_seconds=10.0, message="text"):
        return submit(
            client, ledger, file, name="mine.csv", run="mine", message=message, again=again, wait_seconds=wait_seconds
        )

    return call


def test_score_is_recorded_in_the_ledger(send, ledger, client):
    upload = send()

    assert (upload.ref, upload.status, upload.public, upload.private) == (1, "complete", 0.81, 0.82)
    assert ledger.uploads() == [upload]
    assert client.messages[0].startswith("text [sha256:")


def test_upload_that_the_lost_ledger_does_not_have_is_found_at_kaggle(send, client, ledger):
    send()
    send(again=True)
    (ledger._submissions / "ledger.json").unlink()
    with pytest.raises(KaggleError, match=r"was uploaded before as submission 2 \(public 0\.8100.*; --again"):
        send(wait_seconds=10), send()

    assert len(client.messages) == 2
    assert [upload.ref for upload in ledger.uploads()] == [1, 2]
    assert send(again=True).ref == 3
    assert client.messages[2].endswith(" upload 3]")


def test_upload_without_a_score_is_not_repeated_by_again(send, client):
    client.result = ("pending", None, None, "")
    send(wait_seconds=0)

    with pytest.raises(KaggleError, match=r"^mine\.csv has no score yet, as submission 1; it was not uploaded again\."):
        send(wait_seconds=0, again=True)
    assert len(client.messages) == 1


def test_same_file_is_uploaded_once_unless_again_is_given(send, client, ledger):
    send()
    with pytest.raises(KaggleError, match=r"as submission 1 \(public 0\.8100, private 0\.8200\); --again"):
        send()
    assert len(client.messages) == 1

    assert send(again=True).ref == 2
    assert [upload.ref for upload in ledger.uploads()] == [1, 2]
    assert client.messages[1].endswith(" upload 2]")


@pytest.mark.parametrize(("interrupt", "num_before"), [("before", 0), ("after", 1)])
def test_interrupted_upload_leads_to_one_submission(send, client, ledger, interrupt, num_before):
    client.interrupt = interrupt
    with pytest.raises(KeyboardInterrupt):
        send()
    assert len(client.messages) == num_before
    assert ledger.uploads()[0].ref is None
    client.interrupt = None

    assert send().ref == 1
    assert len(client.messages) == 1
    assert ledger.uploads()[-1].status == "complete"


def test_daily_limit_is_checked_before_the_upload(send, client, ledger):
    client.allowed = 0

    with pytest.raises(KaggleError, match=r"allows no more submissions now; .* was not uploaded\. The daily limit"):
        send()
    assert client.messages == []
    assert ledger.uploads() == []


def test_late_score_is_fetched_by_refresh(send, client, ledger):
    client.result = ("pending", None, None, "")
    with pytest.raises(KaggleError, match=r"submission 1 has no score after 10 s.*runs --refresh"):
        send()
    assert refresh(client, ledger) == []
    client.result = ("complete", 0.5, None, "")

    (changed,) = refresh(client, ledger)
    assert (changed.ref, changed.public) == (1, 0.5)
    assert ledger.uploads() == [changed]


def test_pending_upload_is_only_waited_for(send, client):
    send(wait_seconds=0.0)

    assert send().public == 0.81
    assert len(client.messages) == 1


def test_scoring_error_is_raised_and_recorded(send, client, ledger):
    client.result = ("error", None, None, "row 7 is bad")

    with pytest.raises(KaggleError, match=r"could not score submission 1 of .*: row 7 is bad"):
        send()
    assert ledger.uploads()[0].reason == "row 7 is bad"


def test_two_processes_at_once_upload_one_file_once(send, client, ledger, monkeypatch):
    both_started = threading.Barrier(2)
    num_allowed = client.num_allowed
    monkeypatch.setattr(client, "num_allowed", lambda: threading.Event().wait(0.2) or num_allowed())

    def call(_):
        both_started.wait(10)
        return send(wait_seconds=0.0)

    with ThreadPoolExecutor(2) as pool:
        uploads = list(pool.map(call, range(2)))

    assert [upload.ref for upload in uploads] == [1, 1]
    assert len(client.messages) == 1
    assert [upload.ref for upload in ledger.uploads()] == [1]


def test_refresh_waits_for_an_upload_that_is_under_way(send, client, ledger, monkeypatch):
    under_way, refreshed = threading.Event(), threading.Event()
    upload = client.upload

    def slow_upload(file, message, tag):
        under_way.set()
        assert not refreshed.wait(0.3)
        return upload(file, message, tag)

    monkeypatch.setattr(client, "upload", slow_upload)
    client.result = ("pending", None, None, "")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send, wait_seconds=0.0)
        assert under_way.wait(10)
        changed = refresh(client, ledger)
        refreshed.set()

    assert sent.result().ref == 1
    assert changed == []
    assert [each.ref for each in ledger.uploads()] == [1]


def test_score_that_another_process_recorded_is_not_lost(send, client, ledger):
    client.result = ("pending", None, None, "")
    waits = client.wait

    def wait_while_another_process_records_the_score(ref, timeout):
        score = waits(ref, timeout)
        client.result = ("complete", 0.5, 0.6, "")
        refresh(client, ledger)
        return score

    client.wait = wait_while_another_process_records_the_score
    with pytest.raises(KaggleError, match="has no score after 10 s"):
        send()

    assert ledger.uploads()[0].public == 0.5


def test_message_that_is_not_unicode_is_recorded(send, client, ledger):
    send(message="a\udcff [text]")

    assert client.messages[0].startswith("a\\udcff [text] [sha256:")
    assert ledger.uploads()[0].message == client.messages[0]


def test_refresh_without_open_uploads_writes_nothing(client, tmp_path):
    assert refresh(client, Ledger(tmp_path / "nothing")) == []
    assert not (tmp_path / "nothing").exists()
