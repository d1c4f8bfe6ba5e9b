"""The whole job on a fake Kaggle: pushed, run in a clean folder, followed and fetched, interrupted at every point."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import CONFIG, NUM_TEST
from kaggle_server import KEY, KaggleServer, Response, process_environment

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

COMMAND = f"""
import sys
from dataclasses import replace
from pipeline.cli import main
from pipeline.remote import follow
from pipeline.task import CIFAR10
follow.POLL_SECONDS = 0.2
sys.argv[0] = "run.py"
main(replace(CIFAR10, num_test={NUM_TEST}))
"""
NAME = "somebody/cifar-10-run-tiny"


@pytest.fixture
def kaggle(archives_folder, tmp_path):
    """Yield a server, and a function that starts a command in the test's folder."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in this process may have ignored it
    with KaggleServer(input_folder=archives_folder).running() as server:
        environment = process_environment(server, tmp_path)
        processes = []

        def start(*arguments):
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *map(str, arguments)],
                cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            processes.append(process)
            return process

        yield server, start
        for process in processes:  # of a test that failed
            process.kill()
            with process:
                pass


@pytest.fixture
def remote(kaggle):
    """Run `remote` without an accelerator until its end; return status, stdout and stderr."""

    def run(*arguments):
        process = kaggle[1]("remote", "--config", "tiny.yaml", "--accelerator", "none", *arguments)
        output, errors = process.communicate(timeout=200)
        return process.returncode, output, errors

    return run


def wait_until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.05)


def submission_of(folder):
    return (folder / "submissions" / "tiny" / "submission.csv").read_bytes()


def log_of(server, name=NAME):
    return "".join(event["data"] for event in server.kernels.kernels[name].log)


@pytest.mark.parametrize("moment", ["queued", "running", "fetching"])
def test_command_that_is_killed_resumes_with_the_same_kernel(kaggle, remote, whole_run, tmp_path, moment):
    server, start = kaggle
    kernels, held = server.kernels, threading.Event()
    kernels.execute = moment != "queued"
    if moment == "fetching":
        server.faults["output"] = [lambda _, data: data] * 5 + [lambda _, data: held.wait(60) and data]
    process = start("remote", "--config", "tiny.yaml", "--accelerator", "none")
    if moment == "queued":
        wait_until(lambda: NAME in kernels.kernels and kernels.kernels[NAME].polls > 1)
    elif moment == "running":
        wait_until(lambda: NAME in kernels.kernels and "net fold 0" in log_of(server))
    else:
        wait_until(lambda: server.names().count("output") > 5)
    process.kill()
    process.communicate()
    held.set()
    assert not (tmp_path / "submissions" / "tiny").exists()
    kernels.execute = True
    status, _, errors = remote()

    assert status == 0, errors
    assert submission_of(tmp_path) == submission_of(whole_run[0])
    assert server.names().count("SaveKernel") == 1
    if moment == "fetching":
        names = [body["file"] for name, body in server.received if name == "output"]
        assert names.count("submissions/tiny/config.yaml") == 2  # the second time it is not saved, as it is there


def test_kernel_that_stops_at_its_time_limit_is_resumed_by_the_next_one(kaggle, remote, whole_run, tmp_path):
    server, _ = kaggle
    server.kernels.stop_at = "net fold 0: epoch 1/2"
    status, _, errors = remote("--minutes", "100")
    pushed = [body for name, body in server.received if name == "SaveKernel"]

    assert status == 0, errors
    assert submission_of(tmp_path) == submission_of(whole_run[0])
    assert "kernel: stopped after 100 minutes; the next session resumes" in errors
    assert "kernel: resumes after session 1: " in errors
    assert [body["slug"] for body in pushed] == [NAME, f"{NAME}-session-2"]
    assert [body.get("kernelDataSources", []) for body in pushed] == [[], [NAME]]
    origin = json.loads((tmp_path / "submissions/tiny/remote.json").read_text())
    assert (origin["session"], origin["outcome"]) == (2, "complete")


def test_kernel_that_is_killed_is_pushed_again_with_a_flag(kaggle, remote, whole_run, tmp_path):
    server, start = kaggle
    process = start("remote", "--config", "tiny.yaml", "--accelerator", "none")
    wait_until(lambda: NAME in server.kernels.kernels and "net fold 0" in log_of(server))
    server.kernels.kill(server.kernels.kernels[NAME])
    _, errors = process.communicate(timeout=100)
    failed = remote()

    for text in (errors, failed[2]):
        assert f"error: the kernel https://www.kaggle.com/code/{NAME} failed (Your notebook has failed: " in text
    assert (process.returncode, failed[0]) == (1, 1)
    assert server.names().count("SaveKernel") == 1
    status, _, errors = remote("--again")
    assert status == 0, errors
    assert submission_of(tmp_path) == submission_of(whole_run[0])
    assert server.kernels.kernels[NAME].version == 2


def test_ctrl_c_leaves_the_kernel_running(kaggle, tmp_path):
    server, start = kaggle
    server.kernels.execute = False
    process = start("remote", "--config", "tiny.yaml", "--accelerator", "none")
    wait_until(lambda: NAME in server.kernels.kernels and server.kernels.kernels[NAME].polls > 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert f"the kernel runs on; to stop it, open https://www.kaggle.com/code/{NAME} and choose Cancel Run" in errors
    assert "interrupted; progress saved, rerun the same command to resume" in errors
    assert server.kernels.running() == 1


def test_two_commands_at_once_push_one_kernel(kaggle, tmp_path):
    server, start = kaggle
    server.kernels.execute = False
    processes = [start("remote", "--config", "tiny.yaml", "--no-wait") for _ in range(2)]
    errors = [process.communicate(timeout=100)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], errors
    assert server.names().count("SaveKernel") == 1
    early = start("remote", "--fetch", "--run", "tiny")
    url = f"https://www.kaggle.com/code/{NAME}"
    assert f"error: {url} is queued; without --fetch the command waits" in early.communicate(timeout=60)[1]
    assert early.returncode == 1


def test_remote_run_is_followed_fetched_and_submitted_like_a_local_one(kaggle, remote, whole_run, tmp_path):
    server, start = kaggle
    server.kernels.polls_in_queue = 2
    server.kernels.log_pieces = 5  # the connection of the log breaks once
    server.faults["GetKernelSessionStatus"] = [Response(503), Response(429, headers={"Retry-After": "1"})]
    status, output, errors = remote()

    assert status == 0, errors
    assert submission_of(tmp_path) == submission_of(whole_run[0])
    assert f"kernel https://www.kaggle.com/code/{NAME}: queued" in errors
    assert ": running" in errors
    assert errors.count("kernel: start of the job") == 1
    assert errors.count("net fold 0: validation accuracy") == 1
    assert "upload it: python run.py submit --run tiny" in output
    assert not (tmp_path / "submissions" / ".remote" / "cifar-10-run-tiny").exists()
    assert not list((tmp_path / "submissions" / "tiny").rglob("test_logits"))

    again = remote()
    submit = start("submit", "--run", "tiny")
    assert again[0] == 0
    assert "was fetched from Kaggle before" in again[2]
    assert "submission 1000 of submissions/tiny/submission.csv: complete" in submit.communicate(timeout=100)[0]
    assert server.names().count("SaveKernel") == 1
    runs = start("runs", "--json").communicate(timeout=100)[0]
    assert [(row["run"], row["config"], row["public"]) for row in json.loads(runs)] == [("tiny", "tiny", 0.81)]
    assert KEY not in output + errors + str(server.kernels.kernels[NAME].request)

    (tmp_path / "submissions" / "tiny").rename(tmp_path / "before")
    fetched = start("remote", "--fetch", "--run", "tiny")
    assert fetched.communicate(timeout=60)[0] == again[1]
    assert submission_of(tmp_path) == (tmp_path / "before" / "submission.csv").read_bytes()
