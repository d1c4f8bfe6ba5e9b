"""A whole job without what only some operating systems and devices have."""

import subprocess
import sys

import pytest
from conftest import CONFIG, NUM_TEST, ROOT

# What Windows lacks: modules, functions, signals.
HIDDEN = """
import os, signal, sys
for module in ("fcntl", "resource", "pwd", "grp", "termios", "psutil"):  # psutil of Linux needs them
    sys.modules[module] = None
for name in ("pwrite", "sched_getaffinity", "getuid", "geteuid", "getpgid", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGSTOP"):
    if hasattr(signal, name):
        delattr(signal, name)
import ctypes
class NoMallopt(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "mallopt":
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = NoMallopt
"""
# What Apple's GPUs lack. The whitening layer's eigenvectors are computed on the CPU.
NO_FLOAT64 = """
import sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode

class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, torch.Tensor) and result.dtype == torch.float64 and not is_on_cpu(sys._getframe()):
                raise TypeError(f"{function} makes float64, which the device does not support")
        return results

def is_on_cpu(frame):
    while frame is not None:
        if frame.f_code.co_name == "whiten":
            return True
        frame = frame.f_back
    return False

NoFloat64().__enter__()
"""
RUN = """
import runpy, sys
runpy.run_path({run!r}, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("jobs", [1, 2])
def test_whole_job_needs_neither_modules_of_posix_nor_float64(zip_folder, tmp_path, jobs):
    code = HIDDEN + NO_FLOAT64 + RUN.format(run=str(ROOT / "run.py"))
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("jobs: 1", f"jobs: {jobs}"))
    done = subprocess.run(
        [sys.executable, "-c", code, "all", "--config", "tiny.yaml", "--input", str(zip_folder), "-q"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip

    # filelock and joblib warn that Linux has no fcntl and no CPU affinity: no other system reaches these warnings.
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "submissions" / "tiny" / "submission.csv").read_text().count("\n") == 1 + NUM_TEST
