"""Errors of the operating system while input is read -> InputError with path and remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.error_messages import explain_cause
from pipeline.errors import InputError


def unreadable(path: Path | str, error: OSError) -> InputError:
    """Return the error for a file or folder that can't be read."""
    name = path if error.filename is None else str(error.filename)
    return InputError(f"{name} can't be read: {explain_cause(error)}")


@contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Convert errors of the operating system in the block into InputError."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from None


@contextmanager
def archive_errors(path: Path | str) -> Iterator[None]:
    """Do the same for a block that decodes: corrupted bytes make decoders raise OSError too, which pass.

    Theirs have no number, or that of a seek to a negative position.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.EINVAL):
            raise
        raise unreadable(path, error) from None
