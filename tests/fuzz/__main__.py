"""Coverage-guided search with atheris: `make fuzz FUZZ_SECONDS=120`, so long for each target."""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline", "py7zr", "yaml"]):
    from tests.fuzz.targets import make_targets

MEMORY_MB = 3000  # torch alone takes a good part of it
SECONDS_FOR_ONE = 5  # instrumented code is several times slower


def fuzz(name: str, folder: Path, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    target = make_targets()[name]
    for number, seed in enumerate(target.seeds):
        (folder / f"seed_{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SECONDS_FOR_ONE}"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/found_", str(folder)], target.try_bytes)
    atheris.Fuzz()


def search(name: str) -> bool:
    """Fuzz one target in a process of its own; print what came of it, and return whether something was found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.fuzz", name, folder, os.environ.get("FUZZ_SECONDS", "20")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = " ".join(line for line in done.stderr.splitlines() if line.startswith("Done "))
        text = f"{name}: {'nothing found' if done.returncode == 0 else 'FOUND'}; {runs}"
        if done.returncode:
            found = [f"bytes: {path.read_bytes()[:2000]!r}" for path in Path(folder).glob("found_*")]
            said = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
            text = "\n".join([text, done.stdout[-4000:], *said[-20:], *found])
        print(text, flush=True)
        return done.returncode != 0


def main() -> None:
    """Fuzz every target, one on each core; status 1 if one of them found something."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sys.exit(any(list(pool.map(search, make_targets()))))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fuzz(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
