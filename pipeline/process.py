"""How a command ends: its exit status, and one text for whatever went wrong."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from pipeline.error_messages import explain_error
from pipeline.errors import UserError
from pipeline.submission.kaggle_credentials import redacted

INTERRUPTED = 130  # typer's exit status after Ctrl-C


def run_command(command: Callable[[], None]) -> int | str | None:
    """Run a command that ends with SystemExit, and return its exit status.

    An error of the user, of the operating system or of memory is printed as one text with status 1, any other with its
    traceback. No text contains credentials. The caller should exit outside of any `except` block: the traceback of an
    error keeps what it refers to alive.
    """
    _open_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    threading.excepthook = lambda args: _print_bug(args.exc_value or args.exc_type())
    try:
        _call(command)
    except SystemExit as exit_:
        # A second Ctrl-C while the process ends would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if exit_.code == INTERRUPTED:
            _print("interrupted; progress saved, rerun the same command to resume")
        return exit_.code
    except BrokenPipeError:
        # The process that read the output has ended, as in `runs | head`.
        _discard_output()
    except UserError as error:
        _print(f"error: {error}")
    except Exception as error:
        explained = explain_error(error)
        if explained:
            _print(f"error: {explained}")
        else:
            _print_bug(error)
    return 1


def _call(command: Callable[[], None]) -> None:
    try:
        command()
    finally:
        sys.stdout.flush()


def _open_streams() -> None:
    """Make printing safe: a stream may be closed (None, as after `>&-`), or unable to encode a path."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (open until the end)
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Send what is still buffered for a closed pipe to nowhere: Python would flush it at its end, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def _print(text: str) -> None:
    try:
        print(redacted(text), file=sys.stderr, flush=True)
    except OSError:
        _discard_output()


def _print_bug(error: BaseException) -> None:
    text = "".join(traceback.format_exception(error)).rstrip()
    _print(f"error: this is a bug of the pipeline, please report it:\n{text}")


def _interrupt(_number: int, _frame: object) -> None:
    """End on SIGTERM, which schedulers and shutdowns send, as on Ctrl-C."""
    raise KeyboardInterrupt
