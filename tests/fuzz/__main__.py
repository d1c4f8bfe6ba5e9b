"""Coverage-guided fuzzing with atheris: `make fuzz FUZZ_SECONDS=120`, the seconds per target."""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline", "py7zr", "yaml"]):
    from tests.fuzz.targets import make_targets

MEMORY_MB = 3000  # torch takes a large part of it
SECONDS_PER_INPUT = 5  # instrumented code is several times slower


def fuzz(name: str, folder: Path, seconds: int) -> None:
    """Fuzz one target in this process; atheris ends the process."""
    target = make_targets()[name]
    for number, seed in enumerate(target.seeds):
        (folder / f"seed_{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SECONDS_PER_INPUT}"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/found_", str(folder)], target.try_bytes)
    atheris.Fuzz()


def fuzz_in_subprocess(name: str) -> bool:
    """Fuzz one target in a subprocess, print its result, and return whether it failed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.fuzz", name, folder, os.environ.get("FUZZ_SECONDS", "20")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = " ".join(line for line in done.stderr.splitlines() if line.startswith("Done "))
        text = f"{name}: {'passed' if done.returncode == 0 else 'FAILED'}; {runs}"
        if done.returncode:
            inputs = [f"bytes: {path.read_bytes()[:2000]!r}" for path in Path(folder).glob("found_*")]
            errors = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
            text = "\n".join([text, done.stdout[-4000:], *errors[-20:], *inputs])
        print(text, flush=True)
        return done.returncode != 0


def main() -> None:
    """Fuzz every target, one per core; exit status 1 if one of them failed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sys.exit(any(list(pool.map(fuzz_in_subprocess, make_targets()))))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fuzz(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
