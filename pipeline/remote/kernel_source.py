"""The source of a kernel: a script that contains the pipeline's code, the config, and nothing secret."""

import ast
import base64
import io
import json
import re
import subprocess
import tarfile
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import RunError
from pipeline.progress import log
from pipeline.remote import in_kernel

ROOT = Path(__file__).resolve().parents[2]
CONTENT = ("pipeline", "configs", "run.py", in_kernel.REQUIREMENTS)
SUFFIXES = (".py", ".yaml", ".txt", ".css", ".js", ".j2")
# "The kernel source must be less than 1 megabytes in size", status 400: github.com/JovianHQ/kernel-run/issues/2
MAX_SOURCE = 1_000_000
# kaggle.com/docs/notebooks: 20 GB of /kaggle/working are kept.
MAX_OUTPUT = 19_500_000_000
LINE = 100
SETTINGS = re.compile(r"^SETTINGS = json\.loads\((.*)\)$", re.MULTILINE)


@dataclass(frozen=True)
class Settings:
    """What a session of a run needs; a part of the kernel's source, from which it is read back."""

    run: str
    session: int
    """From 1; each has a kernel of its own, which resumes what the one before it left."""
    push: str
    """A random text: identifies what was pushed if there was no response."""
    config: str
    """The resolved config as YAML."""
    config_name: str
    accelerator: str
    """Kaggle's name of it, for example NvidiaTeslaT4; empty: none."""
    minutes: float
    """After them the job stops itself."""
    commit: str = "unknown"
    max_output: int = MAX_OUTPUT


def make_source(settings: Settings, root: Path = ROOT) -> str:
    """Return the script of a kernel. Raises RunError if it is larger than Kaggle accepts."""
    encoded = base64.b85encode(_archive(root)).decode()
    parts = [
        Path(in_kernel.__file__).read_text(encoding="utf-8"),
        f"SETTINGS = json.loads({json.dumps(asdict(settings))!r})",
        f'ARCHIVE = """\n{textwrap.fill(encoded, LINE, break_on_hyphens=False)}\n"""',
        "run_session(SETTINGS, ARCHIVE)\n",
    ]
    source = "\n".join(parts)
    size = len(source.encode())
    if size > MAX_SOURCE:
        raise RunError(
            f"the kernel's source has {size:,} bytes, Kaggle accepts less than {MAX_SOURCE:,}; remove large files from "
            f"{', '.join(CONTENT[:2])}"
        )
    log.info("kernel source: %s of at most %s bytes", f"{size:,}", f"{MAX_SOURCE:,}")
    return source


def read_settings(source: str) -> Settings | None:
    """Return the settings in the source of a kernel; None if it is not one of this project, or of another version."""
    found = SETTINGS.search(source)
    try:
        return Settings(**json.loads(ast.literal_eval(found[1]))) if found else None
    except (ValueError, SyntaxError, TypeError):
        return None


def _archive(root: Path) -> bytes:
    """Return the code as a compressed tar file, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for path in _files(root):
            info = tarfile.TarInfo(path.relative_to(root).as_posix())
            data = path.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _files(root: Path) -> list[Path]:
    """Return the files of the code: those that git lists, new modules included; without git, all of their kinds."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENT]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=30).stdout.decode()
        paths = [root / name for name in listed.split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        paths = []
    if not paths:
        paths = [
            path for name in CONTENT for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])
        ]
    return sorted(
        path for path in paths if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts
    )
