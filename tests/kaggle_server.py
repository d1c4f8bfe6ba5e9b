"""A stand-in for Kaggle's service on 127.0.0.1: it answers the client's calls, keeps what it got, and fails as told."""

import json
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

DATE = "2026-11-01T12:00:00.000Z"


@dataclass
class Answer:
    """What the server does in place of its usual answer."""

    status: int = 200
    message: str = ""
    headers: dict = field(default_factory=dict)
    cut: bool = False
    """Close the connection without an answer."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    hold: threading.Event | None = None
    """Answer only when it is set."""
    accept_first: bool = False
    """Do the work, then fail."""


class KaggleServer:
    """The competition with one account. `faults[NAME]` is a list of answers to give first to a call of that name."""

    def __init__(self, zip_bytes=b""):
        self.zip_bytes, self.faults, self.received = zip_bytes, defaultdict(list), []
        self.uploads, self.submissions, self.num_allowed, self.polls_until_scored = {}, [], 5, 1
        self.scores, self.error = ("0.8100", "0.8200"), ""
        self.authorizations = []

    def names(self):
        """The calls so far, by their last word."""
        return [name for name, _ in self.received]

    def answer(self, name, body):
        """The usual JSON answer to a call."""
        self.received.append((name, body))
        if name == "GetSubmissionLimits":
            return {"numToday": 5 - self.num_allowed, "numTotal": 9, "numAllowedNow": self.num_allowed}
        if name == "StartSubmissionUpload":
            token = f"token-{len(self.uploads)}"
            return {"token": token, "createUrl": f"{self.url}/upload/{token}"}
        if name == "CreateSubmission":
            self.submissions.append(
                {
                    "ref": 1000 + len(self.submissions),
                    "date": DATE,
                    "description": body.get("submissionDescription", ""),
                    "fileName": "submission.csv",
                    "status": "PENDING",
                    "polls": 0,
                }
            )
            return {"message": "Successfully submitted to CIFAR-10", "ref": self.submissions[-1]["ref"]}
        if name == "GetSubmission":
            found = next(s for s in self.submissions if s["ref"] == body["ref"])
            found["polls"] += 1
            return self.shown(found)
        if name == "ListSubmissions":
            return {"submissions": [self.shown(s) for s in reversed(self.submissions)], "nextPageToken": ""}
        raise AssertionError(name)

    def shown(self, submission):
        shown = {key: value for key, value in submission.items() if key != "polls"}
        if submission["polls"] >= self.polls_until_scored:
            shown["status"] = "ERROR" if self.error else "COMPLETE"
            shown |= {"errorDescription": self.error} if self.error else {}
            shown |= {} if self.error else {"publicScore": self.scores[0], "privateScore": self.scores[1]}
        return shown

    @contextmanager
    def running(self):
        """Serve on a free port of 127.0.0.1."""
        state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def fails(self, name, do=lambda: None):
                state.authorizations.append(self.headers.get("Authorization", ""))
                if not state.faults[name]:
                    return False
                fault = state.faults[name].pop(0)
                if fault.accept_first:
                    do()
                if fault.hold is not None:
                    fault.hold.wait(20)
                if fault.cut:
                    self.close_connection = True
                    return True
                if fault.cut_after is not None:
                    self.send_response(200)
                    self.file_headers()
                    self.wfile.write(state.zip_bytes[: fault.cut_after])
                    self.wfile.flush()
                    self.close_connection = True
                    return True
                self.send(fault.status, {"code": fault.status, "message": fault.message}, fault.headers)
                return True

            def send(self, status, value, headers=()):
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for key, text in dict(headers).items():
                    self.send_header(key, text)
                self.end_headers()
                self.wfile.write(data)

            def file_headers(self, start=0):
                self.send_header("Content-Length", str(len(state.zip_bytes) - start))
                self.send_header("Last-Modified", "Sat, 01 Nov 2014 12:00:00 GMT")
                self.send_header("ETag", '"one"')
                self.send_header("Accept-Ranges", "bytes")
                if start:
                    self.send_header(
                        "Content-Range", f"bytes {start}-{len(state.zip_bytes) - 1}/{len(state.zip_bytes)}"
                    )
                self.end_headers()

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                name = urlsplit(self.path).path.rsplit("/", 1)[-1]
                if self.fails(name, lambda: state.answer(name, body)):
                    return
                if name == "DownloadDataFiles":
                    state.received.append((name, body))
                    self.send_response(302)
                    self.send_header("Location", f"{state.url}/files/cifar-10.zip")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self.send(200, state.answer(name, body))

            def do_PUT(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.fails("PUT", lambda: None):
                    return
                state.uploads[urlsplit(self.path).path.rsplit("/", 1)[-1]] = data
                self.send(200, {})

            def do_GET(self):
                if self.fails("GET"):
                    return
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                state.received.append(("GET", {"start": start}))
                self.send_response(206 if start else 200)
                self.file_headers(start)
                self.wfile.write(state.zip_bytes[start:])

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
