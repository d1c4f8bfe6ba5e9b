"""Dependencies are pinned, have checksums, and their licences are listed."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[\w+\])?==([^\s;]+)")


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return {(found[1].lower(), found[2]) for found in map(PIN.match, lines) if found}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-cluster.txt"])
def test_every_requirement_is_pinned(name):
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    requirements = [line for line in lines if line and not line.startswith("-r ")]

    assert requirements
    assert len(pins(name)) == len(requirements)


def test_hashed_requirements_are_the_same_with_checksums():
    hashed = pins("requirements-hashes.txt")

    assert pins("requirements.txt") <= hashed
    parts = re.split(r"\n(?=[a-z])", (ROOT / "requirements-hashes.txt").read_text())[1:]
    assert len(parts) == len(hashed)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", part) for part in parts)


def test_licence_of_every_package_is_listed():
    text = (ROOT / "docs" / "licences.md").read_text().partition("|---|")[2]
    rows = re.findall(r"\n\| \[?([a-z0-9-]+)\]?\S* \| (\S+) \| .+ \|", text)

    assert set(rows) == pins("requirements-hashes.txt")


def test_cluster_uses_the_pinned_ray():
    cluster = yaml.safe_load((ROOT / "docs" / "cluster" / "kuberay.yaml").read_text())

    assert cluster["spec"]["rayVersion"] == dict(pins("requirements-cluster.txt"))["ray"]


@pytest.mark.parametrize("name", ["Dockerfile", "docs/cluster/Dockerfile"])
def test_files_that_an_image_copies_exist(name):
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / name).read_text(), re.MULTILINE)

    assert copied
    assert all((ROOT / each).exists() for line in copied for each in line.split())
