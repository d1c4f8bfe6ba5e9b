"""The output of a kernel -> a run in submissions/, checked and complete, or not there."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import KaggleError, RunError
from pipeline.files import write_json
from pipeline.locks import file_lock
from pipeline.progress import log
from pipeline.remote.in_kernel import COMPLETE, MANIFEST, TIME_LIMIT, checksum
from pipeline.remote.kernel_source import Settings
from pipeline.runs.run_folder import RunFolder
from pipeline.submission.kaggle_kernels import KernelClient
from pipeline.submission.kaggle_zip import local_errors

ORIGIN = "remote.json"  # in the folder of a run that was fetched
ATTEMPTS = 2


@dataclass(frozen=True)
class Manifest:
    """What a session left."""

    run: str
    session: int
    outcome: str
    files: dict[str, str]
    """SHA-256 of each file."""

    @property
    def is_complete(self) -> bool:
        """Whether the job is complete, and not only stopped at its time limit."""
        return self.outcome == COMPLETE


def remote_folder(run: RunFolder) -> Path:
    """Return the folder of locks and unfinished downloads, on the file system of the runs."""
    return run.path.parent / ".remote"


def was_fetched(run: RunFolder) -> bool:
    """Whether a run came from Kaggle."""
    return (run.path / ORIGIN).exists()


def fetch_manifest(client: KernelClient, name: str, settings: Settings, run: RunFolder) -> Manifest:
    """Fetch what a kernel's output contains. Raises KaggleError if it is not that of a session of the run."""
    folder = remote_folder(run) / name
    with local_errors():
        (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier push
    client.fetch_output(name, folder, f"^{re.escape(MANIFEST)}$")
    try:
        manifest = _parse(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise KaggleError(
            f"the output of {client.url(name)} has no valid {MANIFEST} ({error}); run the command with --again"
        ) from None
    if (manifest.run, manifest.session) != (settings.run, settings.session):
        raise KaggleError(f"{client.url(name)} has the output of session {manifest.session} of the run {manifest.run}")
    return manifest


def fetch_run(client: KernelClient, name: str, manifest: Manifest, run: RunFolder) -> None:
    """Download a run, verify every checksum, and move it into submissions/ as a whole.

    An interrupted download resumes. Raises KaggleError for files that are missing or corrupted.
    """
    folder = remote_folder(run) / name
    with local_errors(), file_lock(folder.with_name(f"{name}.fetch.lock"), wait_for="it fetches the same run"):
        if was_fetched(run):
            return
        for _ in range(ATTEMPTS):
            log.info("fetching %d files of %s", len(manifest.files), client.url(name))
            client.fetch_output(name, folder, f"^submissions/{re.escape(run.name)}/")
            corrupted = [each for each, sha256 in manifest.files.items() if not _is_intact(folder / each, sha256)]
            if not corrupted:
                break
            for each in corrupted:  # the client would keep a file of the right size
                (folder / each).unlink(missing_ok=True)
        else:
            raise KaggleError(
                f"{len(corrupted)} files of {client.url(name)} are missing or corrupted, for example {corrupted[0]}; "
                "run the same command again, or with --again to compute the run once more"
            )
        fetched = RunFolder(folder / "submissions", run.name)
        for path in [path for path in fetched.path.rglob("*") if path.is_file()]:
            if path.relative_to(folder).as_posix() not in manifest.files:
                path.unlink()
        fetched.config()  # raises RunError if it does not match the run's own checksums
        write_json(fetched.path / ORIGIN, {"kernel": client.url(name)} | asdict(manifest))
        if run.path.exists():
            raise RunError(f"{run.path} exists already; choose another --run, or move it away and use --fetch")
        fetched.path.rename(run.path)
        shutil.rmtree(folder, ignore_errors=True)


def _parse(tree: Any) -> Manifest:
    manifest = Manifest(str(tree["run"]), int(tree["session"]), str(tree["outcome"]), dict(tree["files"]))
    if manifest.outcome not in (COMPLETE, TIME_LIMIT):
        raise ValueError(f"outcome {manifest.outcome!r}")
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.parts[:2] != ("submissions", manifest.run) or ".." in path.parts or "\\" in name:
            raise ValueError(f"file {name!r} outside of the run")
    return manifest


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        return checksum(path) == sha256
    except OSError:
        return False
