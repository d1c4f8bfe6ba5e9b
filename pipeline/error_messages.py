"""Any error of the operating system -> one line: what was found, and what to do."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDIES = {
    errno.EACCES: "permission denied; give yourself access, or choose another path",
    errno.EPERM: "permission denied; give yourself access, or choose another path",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "does not exist; check the path, and that the current folder still exists",
    errno.EISDIR: "is a folder, expected a file; rename it, or choose another path",
    errno.ENOTDIR: "a part of this path is a file, expected a folder; rename it, or choose another path",
    errno.EEXIST: "is in the way, expected a folder or nothing; rename it, or choose another path",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.ELOOP: "is a loop of symbolic links; remove it, or choose another path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close other programs",
    errno.EIO: "the disk or network drive has failed to read or write; check it, then rerun the same command",
    errno.ENOMEM: "out of memory; close other programs, or use a machine with more memory",
}
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")


def explain_error(error: BaseException) -> str:
    """Return what an error outside this project's code means and what to do; an empty string for a bug."""
    if isinstance(error, OSError):
        paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
        return ": ".join([*([" -> ".join(paths)] if paths else []), explain_cause(error)])
    if isinstance(error, ModuleNotFoundError) and not (error.name or "pipeline").startswith("pipeline"):
        return f"the package {error.name} is not installed; python -m pip install -r requirements.txt"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "this user or container may start no more threads; raise the limit (ulimit -u, docker --pids-limit)"
    # torch raises RuntimeError where a CPU or GPU is out of memory.
    is_memory = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    if is_memory or isinstance(error, MemoryError):
        return (
            f"out of memory ({_first_line(error)}); progress is saved: rerun the same command with less "
            "(machine.predict_batch_size, machine.num_workers, or train.batch_size and another --run)"
        )
    return ""


def explain_cause(error: OSError) -> str:
    """Return cause and remedy of an error of the operating system, without its path."""
    # torch makes a temporary file when it is loaded, and tempfile reports a full disk in its own way.
    if error.errno in DISK_FULL or "No usable temporary directory" in str(error):
        return f"disk full ({error.strerror or error}); free some space, then rerun the same command"
    return REMEDIES.get(error.errno or 0, f"{error.strerror or _first_line(error)}; fix the cause, then rerun")


def on_one_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 200 characters and no full stop."""
    return " ".join(str(error).split())[:200].rstrip(".")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
