"""A lock between processes, for what only one of them may do at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.files import write_text
from pipeline.progress import log

# Lustre without the option flock, some NFS and FUSE mounts
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class LockedError(Exception):
    """Another process holds the lock; the message is its process id."""


@contextmanager
def file_lock(path: Path, *, wait_for: str = "") -> Iterator[None]:
    """Hold a lock file while the block runs; the operating system releases it however the process ends.

    `wait_for` is what the other process does, for the log: then the call waits for it. Raises LockedError if it does
    not wait, and OSError or RunError if the file can't be written. Where the file system has no locks, the block runs
    without one, after a warning.
    """
    owner = path.with_name(path.name + ".pid")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        _acquire(lock, owner, wait_for)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks (%s); start no second process on it", path, error.strerror)
    try:
        write_text(owner, str(os.getpid()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, owner: Path, wait_for: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        process = "unknown"
        with suppress(OSError):  # the owner may end meanwhile
            process = owner.read_text(encoding="utf-8")
        if not wait_for:
            raise LockedError(process) from None
        log.info("waiting for process %s: %s", process, wait_for)
        lock.acquire()
