"""A fake of Kaggle's API on 127.0.0.1: it responds to the client, records the calls, and injects faults."""

import json
import os
import threading
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kaggle_kernels import Kernels

LAST_MODIFIED = "Sat, 01 Nov 2014 12:00:00 GMT"
DATE = "2026-11-01T12:00:00.000Z"
KEY = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).resolve().parents[1]


def make_home(monkeypatch, folder):
    """Make a home folder with an API key and no other credentials; return its folder of credentials."""
    for name in list(os.environ):
        if name.startswith(("KAGGLE_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    credentials = _save_key(folder)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(credentials.parent))
    return credentials


def process_environment(server, folder):
    """Make a home folder with an API key; return the variables of a process that uses it and the server."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith("KAGGLE_")
    }
    return inherited | {
        "HOME": str(_save_key(folder).parent),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]),
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": server.url,
    }


def _save_key(folder):
    """Return the folder of credentials in a new home folder."""
    credentials = folder / "home" / ".kaggle"
    credentials.mkdir(parents=True)
    (credentials / "kaggle.json").write_text(json.dumps({"username": "somebody", "key": KEY}))
    (credentials / "kaggle.json").chmod(0o600)
    return credentials


@dataclass
class Response:
    """What the server does instead of its usual response."""

    status: int = 200
    message: str = ""
    headers: dict = field(default_factory=dict)
    html: str = ""
    """A web page as the body, in place of JSON."""
    close: bool = False
    """Close the connection without a response."""
    close_after: int | None = None
    """Close the connection after so many bytes of the body."""
    hold: threading.Event | None = None
    """Respond, or close the connection, only when it is set."""
    process_first: bool = False
    """Process the request, then fail."""


class KaggleServer:
    """A competition with one account. `faults[NAME]` lists the first responses to calls of that name."""

    def __init__(self, zip_bytes=b"", input_folder=None):
        self.kernels = Kernels(input_folder)
        self.zip_bytes, self.faults, self.received = zip_bytes, defaultdict(list), []
        self.uploads, self.submissions, self.num_allowed, self.polls_until_scored = {}, [], 5, 1
        self.scores, self.error = ("0.8100", "0.8200"), ""
        self.authorizations = []

    def names(self):
        """Return the names of the calls so far."""
        return [name for name, _ in self.received]

    def respond(self, name, body):
        """Record a call and return its usual JSON response."""
        self.received.append((name, body))
        if name == "GetSubmissionLimits":
            return {"numToday": 5 - self.num_allowed, "numTotal": 9, "numAllowedNow": self.num_allowed}
        if name == "IntrospectToken":
            return {"active": True, "username": "somebody", "scope": ""}
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
            submission = next(s for s in self.submissions if s["ref"] == body["ref"])
            submission["polls"] += 1
            return self.visible(submission)
        if name == "ListSubmissions":
            return {"submissions": [self.visible(s) for s in reversed(self.submissions)], "nextPageToken": ""}
        return self.kernels.respond(name, body, self.url)

    def visible(self, submission):
        visible = {key: value for key, value in submission.items() if key != "polls"}
        if submission["polls"] >= self.polls_until_scored:
            visible["status"] = "ERROR" if self.error else "COMPLETE"
            visible |= {"errorDescription": self.error} if self.error else {}
            visible |= {} if self.error else {"publicScore": self.scores[0], "privateScore": self.scores[1]}
        return visible

    @contextmanager
    def running(self):
        """Serve on a free port of 127.0.0.1."""
        state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def inject_fault(self, name, process=lambda: None):
                state.authorizations.append(self.headers.get("Authorization", ""))
                if not state.faults[name]:
                    return False
                fault = state.faults[name].pop(0)
                if fault.process_first:
                    process()
                if fault.close_after is not None:
                    self.send_response(200)
                    self.file_headers()
                    self.wfile.write(state.zip_bytes[: fault.close_after])
                    self.wfile.flush()
                if fault.hold is not None:
                    fault.hold.wait(20)
                if fault.close or fault.close_after is not None:
                    self.close_connection = True
                    return True
                if fault.html:
                    self.send_bytes(fault.status, fault.html.encode(), "text/html; charset=utf-8")
                else:
                    self.send(fault.status, {"code": fault.status, "message": fault.message}, fault.headers)
                return True

            def send(self, status, value, headers=()):
                self.send_bytes(status, json.dumps(value).encode(), "application/json", headers)

            def send_bytes(self, status, data, content_type, headers=()):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(data)))
                for key, text in dict(headers).items():
                    self.send_header(key, text)
                self.end_headers()
                self.wfile.write(data)

            def file_headers(self, start=0):
                self.send_header("Content-Length", str(len(state.zip_bytes) - start))
                self.send_header("Last-Modified", LAST_MODIFIED)
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
                if self.inject_fault(name, lambda: state.respond(name, body)):
                    return
                if name == "DownloadDataFiles":
                    state.received.append((name, body))
                    self.send_response(302)
                    self.send_header("Location", f"{state.url}/files/cifar-10.zip")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                response = state.respond(name, body)
                if isinstance(response, tuple):
                    self.send(response[0], {"code": response[0], "message": response[1]})
                else:
                    self.send(200, response)

            def do_PUT(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.inject_fault("PUT"):
                    return
                state.uploads[urlsplit(self.path).path.rsplit("/", 1)[-1]] = data
                self.send(200, {})

            def do_GET(self):
                path = unquote(urlsplit(self.path).path)
                if "/kernels/logs/stream/" in path:
                    self.send_log(path.partition("/kernels/logs/stream/")[2])
                    return
                if path.startswith("/output/"):
                    self.send_output(path)
                    return
                if self.inject_fault("GET"):
                    return
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                state.received.append(("GET", {"start": start}))
                self.send_response(206 if start else 200)
                self.file_headers(start)
                self.wfile.write(state.zip_bytes[start:])

            def send_log(self, slug):
                state.received.append(("log", {"kernel": slug}))
                if self.inject_fault("log"):
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()

                def write(text):
                    self.wfile.write(text.encode())
                    self.wfile.flush()

                with suppress(OSError):
                    state.kernels.stream(slug, write)
                self.close_connection = True

            def send_output(self, path):
                _, _, owner, slug, name = path.split("/", 4)
                state.received.append(("output", {"file": name}))
                data = (state.kernels.kernels[f"{owner}/{slug}"].working / name).read_bytes()
                if state.faults["output"]:
                    data = state.faults["output"].pop(0)(name, data)
                if data is None:
                    self.close_connection = True
                    return
                self.send_bytes(200, data, "application/octet-stream", {"Last-Modified": LAST_MODIFIED})

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
            self.kernels.close()
