"""Kernels of the fake Kaggle: a pushed script runs in a clean folder, and its log and output are served."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MOUNT_HOOK = Path(__file__).parent / "kaggle_mount"


class Kernel:
    """The latest version of a pushed kernel."""

    def __init__(self, request, folder):
        self.request, self.folder = request, folder
        self.version, self.status, self.failure, self.polls = 1, "QUEUED", "", 0
        self.log, self.process, self.thread = [], None, None

    @property
    def working(self):
        return self.folder / "working"


class Kernels:
    """The kernels of one account; `script` replaces what is run, `polls_in_queue` is how long each waits."""

    def __init__(self, input_folder=None):
        self.folder, self.input_folder = Path(tempfile.mkdtemp(prefix="kernels-")), input_folder
        self.kernels, self.polls_in_queue, self.page_size = {}, 1, 4
        self.push_error, self.quota, self.invalid = "", ("3600s", "108000s"), {}
        self.stop_at = ""  # a text of the log: then the time of the kernel is over
        self.log_pieces, self.environment, self.started = 0, {}, []
        self.python = sys.executable  # of the image
        self.execute = True  # False: kernels stay in the queue until a test sets their status

    def close(self):
        """Kill what runs, and delete all files."""
        for kernel in self.kernels.values():
            self.kill(kernel)
        shutil.rmtree(self.folder, ignore_errors=True)

    def respond(self, name, body, url):
        """Return the JSON response to a call, or a pair of status and message."""
        if name == "GetAcceleratorQuotaStatistics":
            used, total = self.quota
            return {
                "quotaRefreshTime": "2026-12-05T00:00:00Z",
                "gpuQuota": {"timeUsed": used, "totalTimeAllowed": total},
            }
        if name == "SaveKernel":
            return self.save(body)
        slug = f"{body['userName']}/{body['kernelSlug']}"
        if slug not in self.kernels:
            return 403, "Permission 'kernels.get' was denied"
        kernel = self.kernels[slug]
        if name == "GetKernel":
            return {
                "metadata": {"ref": slug, "currentVersionNumber": kernel.version},
                "blob": {
                    "source": kernel.request["text"], "language": "python", "kernelType": "script",
                    "slug": body["kernelSlug"],
                },
            }  # fmt: skip
        if name == "GetKernelSessionStatus":
            kernel.polls += 1
            if kernel.status == "QUEUED" and kernel.polls > self.polls_in_queue and self.execute:
                self.start(kernel)
            return {"status": kernel.status, "failureMessage": kernel.failure}
        assert name == "ListKernelSessionOutput", name
        ended = kernel.status in ("COMPLETE", "ERROR")
        paths = sorted(path for path in kernel.working.rglob("*") if path.is_file()) if ended else []
        names = [str(path.relative_to(kernel.working)) for path in paths]
        start = int(body.get("pageToken") or 0)
        end = start + self.page_size
        return {
            "files": [{"url": f"{url}/output/{slug}/{name}", "fileName": name} for name in names[start:end]],
            "log": json.dumps(kernel.log) if start == 0 else "",
            "nextPageToken": str(end) if end < len(names) else "",
        }

    def save(self, request):
        if self.push_error:
            return {"error": self.push_error}
        slug = request["slug"]
        kernel = Kernel(request, Path(tempfile.mkdtemp(dir=self.folder)))
        if slug in self.kernels:
            self.kill(self.kernels[slug])
            kernel.version = self.kernels[slug].version + 1
        self.kernels[slug] = kernel
        return {"ref": slug, "url": f"/code/{slug}", "versionNumber": kernel.version} | self.invalid

    def running(self):
        """Return how many kernels run or wait."""
        return sum(kernel.status in ("QUEUED", "RUNNING") for kernel in self.kernels.values())

    def start(self, kernel):
        """Run a kernel's script as Kaggle does: in a clean environment, its input mounted."""
        kernel.status = "RUNNING"
        self.started.append(kernel.request["slug"])
        for name in ("working", "input", "home", "tmp"):
            (kernel.folder / name).mkdir()
        if self.input_folder is not None and kernel.request.get("competitionDataSources"):
            (kernel.folder / "input" / "cifar-10").symlink_to(self.input_folder)
        for slug in kernel.request.get("kernelDataSources", ()):
            mount = kernel.folder / "input" / slug.rpartition("/")[2]
            shutil.copytree(self.kernels[slug].working, mount, symlinks=True)
        script = kernel.folder / "script.py"
        script.write_text(kernel.request["text"])
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(kernel.folder / "home"),
            "TMPDIR": str(kernel.folder / "tmp"),
            "PYTHONPATH": str(MOUNT_HOOK),
            "KAGGLE_WORKING_DIR": str(kernel.working),
            "STOP_FILE": str(kernel.folder / "stop"),
            "KAGGLE_INPUT_DIR": str(kernel.folder / "input"),
        } | self.environment
        kernel.process = subprocess.Popen(
            [self.python, str(script)], cwd=kernel.working, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        kernel.thread = threading.Thread(target=self.watch, args=(kernel,), daemon=True)
        kernel.thread.start()

    def watch(self, kernel):
        with kernel.process.stdout as lines:
            for line in lines:
                kernel.log.append({"stream_name": "stdout", "time": time.monotonic(), "data": line})
                if self.stop_at and self.stop_at in line:
                    self.stop_at = ""
                    (kernel.folder / "stop").touch()
        status = kernel.process.wait()
        kernel.failure = "" if status == 0 else "Your notebook has failed"
        kernel.status = "COMPLETE" if status == 0 else "ERROR"

    def kill(self, kernel):
        """Kill a kernel with all its processes, as Kaggle does at 12 hours."""
        if kernel.process is not None and kernel.process.poll() is None:
            os.killpg(kernel.process.pid, signal.SIGKILL)
        if kernel.thread is not None:
            kernel.thread.join(20)

    def stream(self, slug, write):
        """Write a kernel's log from its start until its end, or until `log_pieces` pieces break the connection."""
        kernel, num_sent = self.kernels[slug], 0
        limit, self.log_pieces = self.log_pieces, 0
        while True:
            ended = kernel.status not in ("QUEUED", "RUNNING")
            for event in kernel.log[num_sent:]:
                write(f"data: {json.dumps(event)}\n\n")
                num_sent += 1
                if limit and num_sent >= limit:
                    return
            if ended:
                write("data: END_OF_LOG\n\n")
                return
            time.sleep(0.05)
