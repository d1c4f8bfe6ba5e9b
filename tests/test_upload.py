"""One file is one submission, whatever breaks in between. Kaggle is a plain object here; see test_kaggle_api.py."""

import pytest

from pipeline.submission.kaggle_client import Score
from pipeline.errors import KaggleError
from pipeline.ledger import Ledger
from pipeline.submission.upload import refresh, submit


class FakeKaggle:
    """Keeps messages; `dies` raises in the upload, before or after the submission arrived."""

    def __init__(self):
        self.messages, self.dies, self.allowed, self.result = [], None, 5, ("complete", 0.81, 0.82, "")

    def num_allowed(self):
        return self.allowed

    def upload(self, file, message, mark):
        assert mark in message
        if self.dies == "before":
            raise KeyboardInterrupt
        self.messages.append(message)
        if self.dies == "after":
            raise KeyboardInterrupt
        return len(self.messages)

    def find(self, text):
        refs = [ref for ref, message in enumerate(self.messages, start=1) if text in message]
        return Score(refs[-1], "pending", None, None, "") if refs else None

    def score(self, ref):
        return Score(ref, *self.result)

    def wait(self, ref, seconds):
        return self.score(ref)


@pytest.fixture
def kaggle():
    return FakeKaggle()


@pytest.fixture
def book(tmp_path):
    return Ledger(tmp_path / "submissions")


@pytest.fixture
def send(kaggle, book, tmp_path):
    file = tmp_path / "submission.csv"
    file.write_text("id,label\n1,cat\n")

    def call(*, again=False, wait_seconds=10.0):
        return submit(kaggle, book, file, run="mine", message="text", again=again, wait_seconds=wait_seconds)

    return call


def test_a_score_goes_into_the_book(send, book, kaggle):
    upload = send()

    assert (upload.ref, upload.status, upload.public, upload.private) == (1, "complete", 0.81, 0.82)
    assert book.uploads() == [upload]
    assert kaggle.messages[0].startswith("text [sha256:")


def test_the_same_file_goes_up_once_unless_told(send, kaggle, book):
    send()
    with pytest.raises(KaggleError, match=r"as submission 1 \(public 0\.8100, private 0\.8200\); --again"):
        send()
    assert len(kaggle.messages) == 1

    assert send(again=True).ref == 2
    assert [upload.ref for upload in book.uploads()] == [1, 2]
    assert kaggle.messages[1].endswith(" upload 2]")


@pytest.mark.parametrize(("dies", "num_before"), [("before", 0), ("after", 1)])
def test_a_stop_in_the_upload_leads_to_one_submission(send, kaggle, book, dies, num_before):
    kaggle.dies = dies
    with pytest.raises(KeyboardInterrupt):
        send()
    assert len(kaggle.messages) == num_before
    assert book.uploads()[0].ref is None
    kaggle.dies = None

    assert send().ref == 1
    assert len(kaggle.messages) == 1
    assert book.uploads()[-1].status == "complete"


def test_no_submission_is_left_for_today(send, kaggle, book):
    kaggle.allowed = 0

    with pytest.raises(KaggleError, match=r"allows no more submissions now; .* was not uploaded\. The daily limit"):
        send()
    assert kaggle.messages == []
    assert book.uploads() == []


def test_a_score_that_is_late_is_fetched_later(send, kaggle, book):
    kaggle.result = ("pending", None, None, "")
    with pytest.raises(KaggleError, match=r"submission 1 has no score after 10 s.*runs --refresh"):
        send()
    assert refresh(kaggle, book) == []
    kaggle.result = ("complete", 0.5, None, "")

    (news,) = refresh(kaggle, book)
    assert (news.ref, news.public) == (1, 0.5)
    assert book.uploads() == [news]


def test_given_again_while_it_is_pending_it_only_waits(send, kaggle):
    send(wait_seconds=0.0)

    assert send().public == 0.81
    assert len(kaggle.messages) == 1


def test_an_error_of_scoring_is_told_and_kept(send, kaggle, book):
    kaggle.result = ("error", None, None, "row 7 is bad")

    with pytest.raises(KaggleError, match=r"could not score submission 1 of .*: row 7 is bad"):
        send()
    assert book.uploads()[0].reason == "row 7 is bad"
