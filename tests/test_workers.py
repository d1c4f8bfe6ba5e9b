"""Processes that call functions side by side: their results, their errors, their end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from faults.harness import restore_interrupts

from pipeline.errors import InputError, RunError
from pipeline.executors.worker_start import worker_context
from pipeline.executors.workers import Workers, WorkerTask

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@pytest.fixture
def workers():
    """Two processes that share two cores."""
    workers = Workers(worker_context("cpu"), _set_up, ["first", "second"], max_threads=2)
    yield workers
    workers.terminate()


def _set_up(argument, send):
    _set_up.argument, _set_up.send = argument, send


def _argument(seconds):
    time.sleep(seconds)
    return _set_up.argument


def _sleep(seconds):
    start = time.monotonic()
    time.sleep(seconds)
    return start, time.monotonic()


def _send_numbers(count):
    for number in range(count):
        _set_up.send("number", number)


def _raise(error):
    raise error


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("no pickle")


def _raise_unpicklable():
    raise UnpicklableError("lost")


def _kill_after(seconds):
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def results(workers, *tasks):
    return dict(workers.run(tasks, print))


def test_every_process_is_set_up_with_its_own_argument(workers):
    assert set(results(workers, *[WorkerTask(_argument, "task", (0.3,))] * 2).values()) == {"first", "second"}


def test_idle_process_is_used_again(workers):
    first = list(workers.run([WorkerTask(os.getpid, "task", ())], print))

    assert list(workers.run([WorkerTask(os.getpid, "task", ())], print)) == first


def test_results_come_as_tasks_finish(workers):
    tasks = [WorkerTask(_sleep, "task", (seconds,)) for seconds in (1.0, 0.0, 0.0)]

    assert [index for index, _ in workers.run(tasks, print)] == [1, 2, 0]


def test_task_with_two_threads_waits_for_both_cores(workers):
    tasks = [WorkerTask(_sleep, "task", (0.3,), num_threads) for num_threads in (1, 1, 2, 1)]
    times = results(workers, *tasks)

    assert times[2][0] >= max(times[0][1], times[1][1])
    assert times[3][0] >= times[2][1]


def test_task_with_more_threads_than_cores_runs_alone(workers):
    times = results(workers, *(WorkerTask(_sleep, "task", (0.2,), 3) for _ in range(2)))

    assert times[1][0] >= times[0][1]


def test_messages_arrive_in_order_before_the_result(workers):
    events = []
    tasks = [WorkerTask(_send_numbers, "task", (count,)) for count in (100, 50)]
    for index, _ in workers.run(tasks, lambda index, kind, number: events.append((index, kind, number))):
        events.append((index, "end", None))

    for index, count in enumerate((100, 50)):
        ours = [event[1:] for event in events if event[0] == index]
        assert ours == [*(("number", number) for number in range(count)), ("end", None)]


def test_error_of_the_user_has_the_name_of_its_task(workers):
    with pytest.raises(InputError, match=r"^net fold 1: no labels$"):
        results(workers, WorkerTask(_raise, "net fold 1", (InputError("no labels"),)))


def test_other_error_keeps_its_class_and_has_the_traceback_of_its_process(workers):
    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        results(workers, WorkerTask(divmod, "net fold 1", (1, 0)))

    assert "task.function(*task.arguments)" in caught.value.__notes__[0]


def test_error_that_can_not_be_pickled_arrives_as_text(workers):
    with pytest.raises(RuntimeError, match="UnpicklableError: lost"):
        results(workers, WorkerTask(_raise_unpicklable, "task", ()))


def test_error_of_the_set_up_is_raised():
    workers = Workers(worker_context("cpu"), _raise_in_set_up, ["x"])
    try:
        with pytest.raises(InputError, match="task: no device x"):
            results(workers, WorkerTask(_sleep, "task", (0,)))
    finally:
        workers.terminate()


def _raise_in_set_up(argument, _send):
    raise InputError(f"no device {argument}")


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_is_reported_at_once(workers, killed):
    tasks = [WorkerTask(_sleep, "task", (60,))] * 2
    tasks[killed] = WorkerTask(_kill_after, "task", (1,))
    start = time.monotonic()
    with pytest.raises(RunError, match=r"was killed, most often because memory ran out; .* machine\.jobs=1"):
        results(workers, *tasks)

    assert time.monotonic() - start < 30


def test_process_that_is_killed_while_it_is_idle_is_reported(workers):
    pids = results(workers, WorkerTask(os.getpid, "task", ()))
    os.kill(pids[0], signal.SIGKILL)
    time.sleep(0.5)
    with pytest.raises(RunError, match="was killed"):
        results(workers, WorkerTask(_sleep, "task", (0,)))


def test_process_that_ends_by_itself_is_reported_with_its_status(workers):
    with pytest.raises(RunError, match="ended with status 3"):
        results(workers, WorkerTask(os._exit, "task", (3,)))


SCRIPT = """
import os, sys, time
from pipeline.executors.worker_start import worker_context
from pipeline.executors.workers import Workers, WorkerTask
from pipeline.process import run_command

def set_up(argument, send):
    send("pid", os.getpid())

def command():
    workers = Workers(worker_context("cpu"), set_up, [1, 2])
    try:
        tasks = [WorkerTask(time.sleep, "task", (600,))] * 2
        list(workers.run(tasks, lambda index, kind, pid: print(pid, flush=True)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        workers.terminate()

if __name__ == "__main__":
    sys.exit(run_command(command))
"""


@pytest.fixture
def endless(tmp_path):
    """A process, leader of its group, with two workers that sleep; their process ids are its first lines."""
    script = tmp_path / "endless.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    process = subprocess.Popen(
        [sys.executable, script], stdout=-1, stderr=-1, text=True, env=os.environ | {"PYTHONPATH": path},
        start_new_session=True, preexec_fn=restore_interrupts,
    )  # fmt: skip
    pids = [process.stdout.readline().strip() for _ in range(2)]
    yield process, pids
    process.kill()
    process.communicate()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_ended(pids):
    until = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(pids)
    assert not any(map(is_running, pids))


@NEEDS_PROC
def test_no_worker_outlives_a_killed_parent(endless):
    process, pids = endless
    process.kill()

    assert_ended(pids)


@NEEDS_PROC
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_all_processes_ends_them_with_one_line(endless, signal_):
    process, pids = endless
    os.killpg(process.pid, signal_)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    assert errors == "interrupted; progress saved, rerun the same command to resume\n"
    assert_ended(pids)
