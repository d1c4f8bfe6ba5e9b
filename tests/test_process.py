"""How a command ends: one text, an exit status, no credentials, and soon."""

import errno
import os
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from pipeline import process
from pipeline.errors import UserError
from pipeline.process import run_command

TOKEN = "KGAT_0123456789abcdef0123456789"


@pytest.fixture
def end_of(monkeypatch, capsys):
    """Run a command that raises an error; return its status and what it printed."""
    monkeypatch.setattr(process.signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def run(error):
        def command():
            raise error

        status = run_command(command)
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EACCES, "error: some/file: permission denied; give yourself access, or choose another path\n"),
        (errno.EISDIR, "error: some/file: is a folder, expected a file; rename it, or choose"),
        (errno.ENOTDIR, "error: some/file: a part of this path is a file, expected a folder"),
        (errno.ENAMETOOLONG, "error: some/file: the name is too long for the file system; choose a shorter one\n"),
        (errno.EROFS, "error: some/file: the file system is read-only; choose another folder\n"),
        (errno.ENOSPC, "error: some/file: disk full (No space left on device); free some space, then rerun"),
        (errno.ETXTBSY, "error: some/file: Text file busy; fix the cause, then rerun\n"),
    ],
    ids=errno.errorcode.get,
)
def test_error_of_the_operating_system_is_one_line_with_path_and_remedy(end_of, number, text):
    status, printed = end_of(OSError(number, os.strerror(number), "some/file"))

    assert status == 1
    assert printed.startswith(text)
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_lack_of_memory_is_one_line_with_what_to_reduce(end_of, error):
    status, printed = end_of(error)

    assert status == 1
    assert printed.startswith("error: out of memory (")
    assert "machine.predict_batch_size" in printed
    assert printed.count("\n") == 1


def test_limit_of_threads_is_one_line_that_names_it(end_of):
    status, printed = end_of(RuntimeError("can't start new thread"))

    assert status == 1
    assert printed == (
        "error: this user or container may start no more threads; raise the limit (ulimit -u, docker --pids-limit)\n"
    )


def test_missing_package_is_named_with_the_command_that_installs_it(end_of):
    status, printed = end_of(ModuleNotFoundError("No module named 'timm'", name="timm"))

    assert (status, printed) == (
        1,
        "error: the package timm is not installed; python -m pip install -r requirements.txt\n",
    )


@pytest.mark.parametrize("error", [KeyError(f"Bearer {TOKEN}\r"), UserError(f"the header {TOKEN!r} is invalid")])
def test_no_credential_is_printed_neither_in_a_traceback_nor_in_an_error(end_of, monkeypatch, error):
    monkeypatch.setenv("KAGGLE_API_TOKEN", f"{TOKEN}\r\n")

    status, printed = end_of(error)

    assert status == 1
    assert "***" in printed
    assert TOKEN not in printed


def test_any_other_error_is_called_a_bug_and_shows_its_traceback(end_of):
    status, printed = end_of(KeyError("weights"))

    assert status == 1
    assert printed.startswith("error: this is a bug of the pipeline, please report it:\nTraceback")


def test_uncaught_error_of_a_thread_is_printed_without_credentials(monkeypatch, capsys):
    monkeypatch.setattr(process.signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")

    def fail():
        raise RuntimeError("the key 0123456789abcdef is wrong")

    def command():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        raise SystemExit(0)

    assert run_command(command) == 0
    printed = capsys.readouterr().err
    assert "RuntimeError: the key *** is wrong" in printed


def start(*arguments, cwd, **options):
    return subprocess.Popen([sys.executable, ROOT / "run.py", *map(str, arguments)], cwd=cwd, **options)


def test_closed_pipe_ends_the_command_without_a_word(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = start("runs", "--csv", cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert done.communicate(timeout=60)[1] == b""
    assert done.returncode == 1


@pytest.mark.parametrize("closed", [1, 2], ids=["stdout", "stderr"])
def test_closed_stream_does_not_end_a_command(tmp_path, closed):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", sys.executable, str(ROOT / "run.py"), "runs"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if closed == 1 else done.stdout)


def test_path_that_the_terminal_cannot_encode_is_printed_escaped(tmp_path, zip_folder):
    folder = tmp_path / "Bilder-ü"
    folder.symlink_to(zip_folder)
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    cache = f"images.cache_dir={tmp_path / 'cäche'}"
    done = start("prepare", "-q", "--input", folder, "--set", cache, cwd=tmp_path, env=environment,
                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    printed, errors = done.communicate(timeout=60)

    assert (done.returncode, errors) == (0, b"")
    assert b"c\\xe4che/train" in printed


@pytest.mark.parametrize("option", ["-P", "-I"])
def test_commands_run_when_python_leaves_the_scripts_folder_out_of_its_path(tmp_path, option):
    done = subprocess.run(
        [sys.executable, option, ROOT / "run.py", "runs", "--csv"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run,config,members")


def test_error_in_one_split_ends_the_command_while_the_other_is_still_read(images_folder, tmp_path, monkeypatch):
    """The threads that read ahead wait for a consumer: they must end with it, not keep the process alive."""
    folder = tmp_path / "input"
    folder.mkdir()
    for name in ("train", "test", "sampleSubmission.csv"):
        (folder / name).symlink_to(images_folder / name)
    (folder / "trainLabels.csv").write_text("id;label\n1;cat\n")
    # One file per read job: more are ready than the queue holds.
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pipeline.data.kaggle_files as k; k.CHUNK_SIZE = 1\n"
        "import pipeline.data.image_cache as c; c.CHUNK_SIZE = 1\n"
        "import time; usual = k.decode_png; k.decode_png = lambda *a: (time.sleep(0.3), usual(*a))[1]\n"
        f"sys.argv = ['run.py', 'prepare', '--input', {str(folder)!r}]; from pipeline.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "trainLabels.csv has the header 'id;label', expected 'id,label'" in done.stderr
