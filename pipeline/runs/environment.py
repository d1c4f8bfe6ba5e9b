"""The environment of a run: versions, processor, commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "scipy",
    "scikit-learn",
)


def describe_environment(device: str, autocast: bool) -> dict[str, Any]:
    """Return date, versions, processor, precision and commit; no names of users, hosts or paths."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": device,
        "precision": "bf16" if autocast else "float32",
        "packages": package_versions(),
        "commit": current_commit(),
    }


def package_versions(*more: str) -> dict[str, str]:
    """Return the versions of the packages that determine a run's results, and of any others named."""
    return {name: _version(name) for name in (*PACKAGES, *more)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def current_commit() -> str:
    """Return the commit, marked where files were changed since; outside a checkout that in PIPELINE_COMMIT, if any."""
    root = Path(__file__).resolve().parents[2]
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607 (git is where the user has it)
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("PIPELINE_COMMIT", "unknown")
    return found.stdout.strip()
