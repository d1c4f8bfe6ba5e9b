"""Processes that call functions side by side; what they send arrives in order, and none outlives this process."""

import logging
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.error_messages import on_one_line
from pipeline.errors import LostError, RunError, UserError
from pipeline.executors.worker_start import without_interrupts
from pipeline.progress import log

WAIT_SECONDS = 0.5  # Windows sees Ctrl-C only between two waits
END_SECONDS = 5.0  # for a process that was terminated
Send = Callable[..., None]  # called with the kind of a message and its values, which are pickled
SetUp = Callable[[Any, Send], None]  # called in a new process with its argument


@dataclass(frozen=True)
class WorkerTask:
    """A function that a process calls; `name` is for errors."""

    function: Callable[..., Any]
    name: str
    arguments: tuple[Any, ...]
    num_threads: int = 1
    """Of the cores that all tasks share."""


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection


class Workers:
    """At most one process for each of `arguments`, started by the first task that finds no idle one.

    Each is set up by `set_up` with its argument. Tasks start in order, as long as the threads of all that run do not
    exceed `max_threads`, if given; a task with more than that runs alone.
    """

    def __init__(
        self, context: BaseContext, set_up: SetUp, arguments: Sequence[Any], max_threads: int | None = None
    ) -> None:
        self._context, self._set_up, self._max_threads = context, set_up, max_threads
        self._arguments = deque(arguments)
        self._idle: list[_Worker] = []
        self._running: dict[Connection, tuple[int, WorkerTask, _Worker]] = {}

    def run(self, tasks: Sequence[WorkerTask], on_message: Callable[..., None]) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) of tasks as they finish; `on_message` is called with an index and what it sends.

        Raises a task's error, with its name if it is the user's, and LostError if a process ended unexpectedly.
        """
        waiting = deque(enumerate(tasks))
        self._start_tasks(waiting)
        while self._running:
            for connection in multiprocessing.connection.wait(list(self._running), WAIT_SECONDS):
                assert isinstance(connection, Connection)
                index, task, worker = self._running[connection]
                kind, *values = _receive(worker)
                if kind == "log":
                    log.log(*values)
                elif kind == "error":
                    raise _with_name(values[0], task.name)
                elif kind == "result":
                    del self._running[connection]
                    self._idle.append(worker)
                    self._start_tasks(waiting)  # before whoever gets the result spends time on it
                    yield index, values[0]
                else:
                    on_message(index, kind, *values)

    def terminate(self) -> None:
        """End all processes."""
        with without_interrupts():
            processes = [worker.process for worker in self._idle]
            processes += [worker.process for _, _, worker in self._running.values()]
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(END_SECONDS)
                if process.is_alive():
                    process.kill()
                    process.join()

    def _start_tasks(self, waiting: deque[tuple[int, WorkerTask]]) -> None:
        while waiting and self._has_room(waiting[0][1]):
            index, task = waiting.popleft()
            worker = self._idle.pop() if self._idle else self._start_worker()
            self._running[worker.connection] = index, task, worker
            try:
                worker.connection.send(task)
            except OSError:
                _receive(worker)  # raises LostError, as it ended while it was idle

    def _has_room(self, task: WorkerTask) -> bool:
        if not self._running:
            return True
        num_threads = task.num_threads + sum(running.num_threads for _, running, _ in self._running.values())
        has_threads = self._max_threads is None or num_threads <= self._max_threads
        return has_threads and bool(self._idle or self._arguments)

    def _start_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = theirs, self._set_up, self._arguments.popleft(), log.level
        process = self._context.Process(target=_work, args=arguments, daemon=False)  # type: ignore[attr-defined]
        try:
            with without_interrupts():
                process.start()
        except (OSError, EOFError) as error:
            raise RunError(
                f"a process can't be started ({on_one_line(error) or type(error).__name__}); --set machine.jobs=1 "
                "needs none"
            ) from None
        # This copy has to be closed: only then the end of the process ends the connection.
        theirs.close()
        return _Worker(process, ours)


def _receive(worker: _Worker) -> Any:
    """Return the next message of a process. Raises LostError if the process has ended."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(END_SECONDS)
    status = worker.process.exitcode
    if status != -signal.SIGKILL:
        # A SIGTERM to all processes of the job, as of a scheduler: that of this one interrupts the command.
        time.sleep(1)
    killed = "was killed, most often because memory ran out" if status == -9 else f"ended with status {status}"
    raise LostError(
        f"a training or prediction process {killed}; progress is saved: rerun the same command to resume, with --set "
        "machine.jobs=1 if memory is short"
    )


def _with_name(error: BaseException, name: str) -> BaseException:
    return type(error)(f"{name}: {error}") if isinstance(error, UserError) else error


def _work(connection: Connection, set_up: SetUp, argument: Any, log_level: int) -> None:
    """Call functions until the parent ends: what a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    log.handlers[:] = [_SendingHandler(send)]
    log.setLevel(log_level)
    log.propagate = False
    try:
        set_up(argument, send)
        while True:
            task: WorkerTask = connection.recv()
            send("result", task.function(*task.arguments))
            del task
    except EOFError:
        return
    except BaseException as error:
        _send_error(error, send)
        raise SystemExit(1) from None


def _send_error(error: BaseException, send: Send) -> None:
    if not isinstance(error, UserError):
        error.add_note(f"In another process:\n{''.join(traceback.format_exception(error))}")
    try:
        send("error", error)
    except Exception:
        # Of a class that can't be pickled.
        send("error", RuntimeError("".join(traceback.format_exception(error))))


class _SendingHandler(logging.Handler):
    """Sends what is logged to the parent."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", record.levelno, record.getMessage())


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
