"""The script of a kernel: what it contains, what it installs, and how each of its failures ends."""

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import version

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

from pipeline.errors import RunError
from pipeline.remote import in_kernel, kernel_source
from pipeline.remote.kernel_source import Settings, make_source, read_settings

SETTINGS = Settings("tiny", 1, "0" * 16, "seed: 0\n", "tiny", "", 100.0)
NOT_IN_KERNEL = {"torch", "torchvision", "kaggle", "six", "optuna"}  # the image's own; what only the driver needs


def requirements(name):
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return {found.name.lower(): found.specifier for found in map(Requirement, filter(None, lines))}


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """Folders of a kernel, and its settings."""
    working, mounts = tmp_path / "working", tmp_path / "input"
    working.mkdir()
    mounts.mkdir()
    monkeypatch.setenv(in_kernel.WORKING_DIR, str(working))
    monkeypatch.setenv(in_kernel.INPUT_DIR, str(mounts))
    return working, mounts


def wheel(folder, name, *needs):
    """Make the wheel of an empty package that needs others."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + "".join(f"Requires-Dist: {n}\n" for n in needs),
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_ranges_of_kaggle_include_the_pinned_versions_and_never_torch():
    pinned, ranges = requirements("requirements.txt"), requirements("requirements-kaggle.txt")

    assert ranges.keys() == (pinned.keys() - NOT_IN_KERNEL) | {"requests"}
    for name in ranges.keys() & pinned.keys():
        assert next(iter(pinned[name])).version in ranges[name], name


def test_source_contains_the_code_and_the_settings_and_nothing_else(tmp_path):
    source = make_source(SETTINGS)
    archive = ast.parse(source).body[-2]
    in_kernel.unpack(archive.value.value, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}

    assert read_settings(source) == SETTINGS
    assert max(map(len, source.splitlines())) < 1000
    assert {"run.py", "pipeline/cli.py", "pipeline/report/page.html.j2", "configs/quick.yaml"} < names
    assert {name.split("/")[0] for name in names} == {"run.py", "pipeline", "configs", "requirements-kaggle.txt"}
    assert not any("__pycache__" in name for name in names)
    assert (tmp_path / "run.py").read_bytes() == (ROOT / "run.py").read_bytes()
    assert make_source(SETTINGS) == source


def test_code_without_git_is_the_same(tmp_path, monkeypatch):
    for name in kernel_source.CONTENT:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tmp_path / name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert make_source(SETTINGS, tmp_path) == make_source(SETTINGS)


def test_source_that_is_too_large_is_rejected(monkeypatch):
    monkeypatch.setattr(kernel_source, "MAX_SOURCE", 100_000)
    with pytest.raises(
        RunError, match=r"^the kernel's source has 2\d\d,\d\d\d bytes, Kaggle accepts less than 100,000;"
    ):
        make_source(SETTINGS)


@pytest.mark.parametrize("source", ["print(1)", "SETTINGS = json.loads('{}')", "SETTINGS = json.loads('x')"])
def test_source_of_something_else_has_no_settings(source):
    assert read_settings(source) is None


def test_kernel_without_the_gpu_that_was_chosen_fails_at_once(kernel, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(in_kernel, "NVIDIA_DRIVER", tmp_path / "none")
    with pytest.raises(SystemExit) as end:
        in_kernel.run_session(vars(replace(SETTINGS, accelerator="NvidiaTeslaT4")), "")

    assert end.value.code == 1
    assert "error: Kaggle gave this kernel no GPU; verify your phone number on https" in capsys.readouterr().out


def test_nothing_is_installed_if_all_packages_are_there(kernel, tmp_path, capsys):
    path = tmp_path / in_kernel.REQUIREMENTS
    path.write_text((ROOT / in_kernel.REQUIREMENTS).read_text())
    in_kernel.install_packages(path, kernel[1])

    assert capsys.readouterr().out == ""
    kept = (tmp_path / "kept.txt").read_text().splitlines()
    assert f"torch=={version('torch')}" in kept


def test_missing_package_is_installed_from_mounted_wheels(kernel, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    wheel(kernel[1] / "my-wheels" / "deep", "nothing_there")
    path = tmp_path / in_kernel.REQUIREMENTS
    path.write_text("nothing_there>=1\n")
    in_kernel.install_packages(path, kernel[1])

    assert (tmp_path / "target" / "nothing_there.py").exists()


@pytest.mark.parametrize(
    ("needs", "reason"),
    [(["numpy==1.0"], "conflicting dependencies"), ([], "the requirement absent>=1")],
)
def test_package_that_conflicts_with_the_image_or_is_missing_is_one_line(
    kernel, tmp_path, monkeypatch, capsys, needs, reason
):
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(kernel[1] / "wheels"))
    wheel(kernel[1] / "wheels", "nothing_there", *needs)
    path = tmp_path / in_kernel.REQUIREMENTS
    path.write_text("nothing_there>=1\n" if needs else "absent>=1\n")
    with pytest.raises(SystemExit):
        in_kernel.install_packages(path, kernel[1])
    error = capsys.readouterr().out.splitlines()[-1]

    assert error.startswith("error: the packages of requirements-kaggle.txt can't be installed (ERROR: ")
    assert reason in error
    assert not (tmp_path / "target").exists()


def make_run(working, **files):
    folder = working / "submissions" / "tiny"
    for name, text in ({"config.yaml": "seed: 0", "net/fold_0/test_logits/0.npz": "x", ".lock": ""} | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_manifest_has_the_checksums_of_the_run(kernel):
    working, _ = kernel
    folder = make_run(working)
    files = in_kernel.leave_output(vars(SETTINGS), working, is_complete=False)
    manifest = json.loads((working / in_kernel.MANIFEST).read_text())

    assert set(files) == {"submissions/tiny/config.yaml", "submissions/tiny/net/fold_0/test_logits/0.npz"}
    assert manifest == {"run": "tiny", "session": 1, "outcome": "time limit", "files": files}
    files = in_kernel.leave_output(vars(SETTINGS), working, is_complete=True)
    assert set(files) == {"submissions/tiny/config.yaml"}
    assert not (folder / "net" / "fold_0" / "test_logits").exists()


def test_output_that_is_too_large_is_an_error(kernel, capsys):
    make_run(kernel[0], **{"config.yaml": "x" * 1000})
    with pytest.raises(SystemExit):
        in_kernel.leave_output(vars(replace(SETTINGS, max_output=100)), kernel[0], is_complete=True)

    assert (
        "error: the run has 0.0 GB, but Kaggle keeps 0.0 GB; train fewer or smaller models" in capsys.readouterr().out
    )


def previous_session(kernel):
    """Leave the output of session 1 where session 2 has it mounted; return its mount."""
    working, mounts = kernel
    make_run(working)
    in_kernel.leave_output(vars(SETTINGS), working, is_complete=False)
    mount = mounts / "notebooks" / "somebody" / "cifar-10-run-tiny"
    mount.parent.mkdir(parents=True)
    working.rename(mount)
    working.mkdir()
    return mount


def test_next_session_gets_a_copy_that_it_can_write(kernel):
    mount = previous_session(kernel)
    for path in mount.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    files = in_kernel.copy_previous(vars(replace(SETTINGS, session=2)), kernel[1], kernel[0])
    copy = kernel[0] / "submissions" / "tiny" / "config.yaml"

    assert in_kernel.checksum(copy) == files["submissions/tiny/config.yaml"]
    assert copy.stat().st_mode & 0o200
    for path in mount.rglob("*"):
        path.chmod(0o755)


def test_corrupted_or_missing_output_of_the_session_before_is_an_error(kernel, capsys):
    mount = previous_session(kernel)
    (mount / "submissions" / "tiny" / "config.yaml").write_text("seed: 1")
    for session, message in (
        (2, "config.yaml of the session before is corrupted"),
        (3, "output of session 2 is not in"),
    ):
        with pytest.raises(SystemExit):
            in_kernel.copy_previous(vars(replace(SETTINGS, session=session)), kernel[1], kernel[0])
        assert message in capsys.readouterr().out


@pytest.fixture
def job(kernel, monkeypatch, tmp_path):
    """Run a session whose job is another script."""
    monkeypatch.setattr(in_kernel.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "scratch"))
    monkeypatch.setattr(in_kernel, "install_packages", lambda *_: None)

    def run(code, **changes):
        (tmp_path / "scratch").mkdir()
        (tmp_path / "scratch" / "run.py").write_text(code)
        monkeypatch.setattr(in_kernel, "unpack", lambda *_: None)
        in_kernel.run_session(vars(replace(SETTINGS, **changes)), "")

    return run


WRITE = "from pathlib import Path; p = Path('submissions/tiny'); p.mkdir(exist_ok=True)\n"


def test_job_that_ends_is_complete(job, kernel, capsys, tmp_path):
    job(
        WRITE + "import os, sys; (p / 'x').write_text(' '.join(sys.argv) + os.environ['PIPELINE_COMMIT'])", commit="abc"
    )

    assert (kernel[0] / "submissions/tiny/x").read_text() == "run.py all --config tiny.yaml --run tinyabc"
    assert json.loads((kernel[0] / "output.json").read_text())["outcome"] == "complete"
    assert "kernel: complete" in capsys.readouterr().out
    assert not (tmp_path / "scratch").exists()


def test_job_that_fails_fails_the_kernel(job, kernel, capfd):
    with pytest.raises(SystemExit):
        job(WRITE + "import sys; print('error: no folds', file=sys.stderr); sys.exit(1)")

    assert not (kernel[0] / "output.json").exists()
    assert "kernel: the job ended with status 1" in capfd.readouterr().out


SLEEP = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
time.sleep(60)
"""


def test_job_is_interrupted_at_the_time_limit(job, kernel, capsys):
    job(WRITE + "(p / 'x').write_text('1')" + SLEEP, minutes=0.02)

    assert json.loads((kernel[0] / "output.json").read_text())["outcome"] == "time limit"
    assert "kernel: stopped after 0.02 minutes; the next session resumes" in capsys.readouterr().out


def test_session_without_progress_is_an_error(job, kernel, capsys):
    previous_session(kernel)
    with pytest.raises(SystemExit):
        job(WRITE + "(p / 'times.json').write_text('1')" + SLEEP, minutes=0.02, session=2)

    assert "error: no progress in 0.02 minutes: raise --minutes" in capsys.readouterr().out


def test_job_that_does_not_stop_is_killed(job, kernel, monkeypatch):
    monkeypatch.setattr(in_kernel, "SECONDS_TO_STOP", 0.2)
    ignore = "\nimport signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    job(WRITE + "(p / 'x').write_text('1')" + ignore, minutes=0.02)

    assert json.loads((kernel[0] / "output.json").read_text())["outcome"] == "time limit"


def test_script_imports_only_the_standard_library():
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code, in_kernel.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert "tarfile" in done.stdout
