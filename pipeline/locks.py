"""A lock between processes, for what only one of them may do at a time."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import RunError
from pipeline.files import write_text
from pipeline.progress import log

# Lustre without the option flock, some NFS and FUSE mounts
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
POLL_SECONDS = 0.2
SECONDS_WITHOUT_OWNER = 10.0  # every owner writes its process id at once: a lock without one is none


class LockedError(Exception):
    """Another process holds the lock; the message is its process id."""


@contextmanager
def file_lock(path: Path, *, wait_for: str = "", on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file while the block runs; the operating system releases it however the process ends.

    `wait_for` is what the other process does, for the log: then the call waits for it, and calls `on_wait` several
    times per second, which may raise an error to stop that. Raises LockedError if it does not wait, and OSError if the
    file can't be made. Where the file system has no locks, the block runs without one, after a warning.
    """
    owner = path.with_name(path.name + ".pid")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        _acquire(lock, owner, wait_for, on_wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks (%s); start no second process on it", path, error.strerror)
    try:
        with suppress(RunError):  # a full disk; the number is for messages only
            write_text(owner, str(os.getpid()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, owner: Path, wait_for: str, on_wait: Callable[[], None]) -> None:
    with suppress(Timeout):
        lock.acquire(timeout=0)
        return
    process = _read_owner(owner) or "unknown"
    if not wait_for:
        raise LockedError(process)
    log.info("waiting for process %s: %s", process, wait_for)
    last_seen = time.monotonic()
    while time.monotonic() - last_seen < SECONDS_WITHOUT_OWNER:
        on_wait()
        with suppress(Timeout):
            lock.acquire(timeout=POLL_SECONDS)
            return
        if _read_owner(owner):
            last_seen = time.monotonic()
    raise OSError(errno.ENOLCK, "it reports a lock that no process holds")


def _read_owner(path: Path) -> str:
    """Return the owner's process id; an empty string if it has ended, or not written it yet."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
