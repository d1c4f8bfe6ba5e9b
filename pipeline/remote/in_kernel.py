"""What runs in a Kaggle kernel: unpack the pipeline, install what the image lacks, run the job, leave its output.

The text of this file is the beginning of the kernel's source, so it imports only the standard library.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

WORKING_DIR, INPUT_DIR = "KAGGLE_WORKING_DIR", "KAGGLE_INPUT_DIR"  # variables that tests set
MANIFEST = "output.json"
COMPLETE, TIME_LIMIT = "complete", "time limit"
MOUNT_DEPTH = 4  # /kaggle/input/notebooks/OWNER/NAME/output.json
REQUIREMENTS = "requirements-kaggle.txt"
KEPT = ("torch", "torchvision", "numpy")  # the image's own: pip installs no other version of them
NVIDIA_DRIVER = Path("/dev/nvidiactl")
SECONDS_TO_STOP = 600.0  # from the interruption of the job to its end
ALWAYS_NEW = ("times.json", "metrics.json", "arrangement.json")  # written without progress, too


def run_session(settings: dict[str, Any], archive: str) -> None:
    """Run the job until its end or its time limit, and exit: status 0 if either is reached, 1 after an error."""
    start = time.monotonic()
    run, minutes = settings["run"], settings["minutes"]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    print_line(
        f"session {settings['session']} of the run {run} started {now}; it stops itself after {minutes:g} minutes"
    )
    if settings["accelerator"] and not NVIDIA_DRIVER.exists():
        fail(
            "Kaggle gave this kernel no GPU; verify your phone number on https://www.kaggle.com/settings, or choose "
            "--accelerator none"
        )
    working = Path(os.environ.get(WORKING_DIR, "/kaggle/working"))
    mounts = Path(os.environ.get(INPUT_DIR, "/kaggle/input"))
    root = Path(tempfile.mkdtemp(prefix="pipeline-"))
    unpack(archive, root)
    install_packages(root / REQUIREMENTS, mounts)
    folder = working / "submissions" / run
    before = copy_previous(settings, mounts, working)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Decoded images and the code stay on the scratch disk; what is in the working folder becomes the output.
    (root / "submissions").symlink_to(folder.parent, target_is_directory=True)
    (root / f"{settings['config_name']}.yaml").write_text(settings["config"], encoding="utf-8")
    print_line(f"start of the job, {time.monotonic() - start:.1f} s after that of the kernel")
    is_complete = run_job(settings, root, start + minutes * 60)
    files = leave_output(settings, working, is_complete=is_complete)
    shutil.rmtree(root, ignore_errors=True)
    if not is_complete and progress(files) == progress(before):
        fail(f"no progress in {minutes:g} minutes: raise --minutes, or take a config with shorter epochs")
    print_line("complete" if is_complete else f"stopped after {minutes:g} minutes; the next session resumes")


def print_line(text: str) -> None:
    """Print a line of this script."""
    print(f"kernel: {text}", flush=True)


def fail(text: str) -> NoReturn:
    """Print an error and exit with status 1."""
    print(f"error: {text}", flush=True)
    sys.exit(1)


def unpack(archive: str, folder: Path) -> None:
    """Unpack base85 text of a compressed tar file into a folder."""
    data = base64.b85decode("".join(archive.split()))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")


def install_packages(requirements: Path, mounts: Path) -> None:
    """Install the missing packages, from mounted wheels or the network; nothing is installed if all are there."""
    wheels = sorted({str(path.parent) for path in mounts.glob("*/**/*.whl")})
    kept = requirements.with_name("kept.txt")
    kept.write_text("".join(f"{name}=={installed(name)}\n" for name in KEPT if installed(name)), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--requirement", str(requirements), "--constraint", str(kept)]
    local = ["--no-index", *(f"--find-links={folder}" for folder in wheels)]
    if subprocess.run([*command, *local], capture_output=True, check=False).returncode == 0:
        return
    print_line(f"installing packages of {requirements.name}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.lower().startswith("error")]
        reason = " ".join((lines or done.stderr.splitlines() or ["no reason given"])[0].split())
        fail(
            f"the packages of {requirements.name} can't be installed ({reason}); without internet (which needs a "
            "verified phone number) attach a dataset with their wheels, --dataset OWNER/NAME"
        )


def installed(package: str) -> str:
    """Return the version of a package; an empty string if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def copy_previous(settings: dict[str, Any], mounts: Path, working: Path) -> dict[str, str]:
    """Copy the run as the session before left it, if there was one; return the checksums of its files."""
    if settings["session"] == 1:
        return {}
    for manifest in (path for depth in range(1, MOUNT_DEPTH + 1) for path in mounts.glob("*/" * depth + MANIFEST)):
        previous = json.loads(manifest.read_text(encoding="utf-8"))
        if (previous["run"], previous["session"]) != (settings["run"], settings["session"] - 1):
            continue
        for name, sha256 in previous["files"].items():
            target = working / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(manifest.parent / name, target)  # without its mode: what is mounted is read-only
            if checksum(target) != sha256:
                fail(f"{name} of the session before is corrupted; choose another --run")
        print_line(f"resumes after session {previous['session']}: {len(previous['files'])} files")
        return dict(previous["files"])
    fail(f"the output of session {settings['session'] - 1} is not in {mounts}")


def run_job(settings: dict[str, Any], root: Path, deadline: float) -> bool:
    """Run the job until a time; return whether it is complete. Exits if it failed."""
    command = [sys.executable, "run.py", "all", "--config", f"{settings['config_name']}.yaml", "--run", settings["run"]]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PIPELINE_COMMIT": settings["commit"]}
    process = subprocess.Popen(command, cwd=root, env=environment)
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        # The job saves its progress, as on Ctrl-C, whose signal would be ignored where that of this process is.
        process.terminate()
        try:
            status = process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return status == 0
    if status:
        print_line(f"the job ended with status {status}")
        sys.exit(1)  # its own last line says what is wrong
    return True


def leave_output(settings: dict[str, Any], working: Path, *, is_complete: bool) -> dict[str, str]:
    """Write the manifest of the run's files and return their checksums; remove what nothing needs any more."""
    folder = working / "submissions" / settings["run"]
    if is_complete:
        for logits in folder.glob("*/*/test_logits"):
            shutil.rmtree(logits)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    size = sum(path.stat().st_size for path in paths)
    if size > settings["max_output"]:
        limit = settings["max_output"]
        fail(f"the run has {size / 1e9:.1f} GB, but Kaggle keeps {limit / 1e9:.1f} GB; train fewer or smaller models")
    files = {path.relative_to(working).as_posix(): checksum(path) for path in paths}
    manifest = {
        "run": settings["run"],
        "session": settings["session"],
        "outcome": COMPLETE if is_complete else TIME_LIMIT,
        "files": files,
    }
    (working / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    print_line(f"{len(files)} files, {size / 1e6:.1f} MB")
    return files


def progress(files: dict[str, str]) -> dict[str, str]:
    """Return the files that change only with progress."""
    return {name: sha256 for name, sha256 in files.items() if not name.endswith(ALWAYS_NEW)}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
