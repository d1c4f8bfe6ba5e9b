"""Two hosts, each a network namespace of its own with a node of a Ray cluster, and the cable between them is cut."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_job import ClusterJob

HEAD, OTHER = "10.231.7.1", "10.231.7.2"
RAY = str(Path(sys.executable).with_name("ray"))
# The namespaces have no way out, so what keeps other tests from the network need not be there.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "token",  # as docs/cluster.md has it
    "RAY_AUTH_TOKEN": "5" * 64,
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


def ip(*words, check=True):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


def _can_make_hosts():
    name = f"probe-{os.getpid()}"
    if shutil.which("ip") is None or ip("netns", "add", name, check=False).returncode:
        return False
    ip("netns", "delete", name)
    return True


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not _can_make_hosts(), reason="needs iproute2, and the right to make network namespaces"),
]


@pytest.fixture
def hosts():
    """Two namespaces that a cable joins, with a node of one core each; the first is the head."""
    names = [f"host-{n}-{os.getpid()}" for n in (1, 2)]
    for name in names:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
    for name, address in zip(names, (HEAD, OTHER), strict=True):
        ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
        ip("-n", name, "link", "set", "cable", "up")
    try:
        _start_node(names[0], HEAD, "--head", "--port", "6379", "--include-dashboard", "false")
        _start_node(names[1], OTHER, "--address", f"{HEAD}:6379")
        yield names
    finally:
        for name in names:
            for pid in ip("netns", "pids", name, check=False).stdout.split():
                subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
            ip("netns", "delete", name, check=False)


def _start_node(host, address, *words):
    command = [RAY, "start", "--node-ip-address", address, "--num-cpus", "1", "--object-store-memory", "104857600"]
    done = subprocess.run(
        ["ip", "netns", "exec", host, *command, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class HostJob(ClusterJob):
    """The job, typed on the first host."""

    def on(self, host):
        self._command = ["ip", "netns", "exec", host, *self._command]
        return self


def test_a_cut_cable_costs_no_byte(hosts, tmp_path, monkeypatch):
    whole = ClusterJob.with_epochs(tmp_path / "whole", epochs=60)
    whole.succeed()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH")
    job = HostJob.with_epochs(tmp_path / "cut", "--executor", "ray", "--address", f"{HEAD}:6379", epochs=60).on(
        hosts[0]
    )
    process = job.start()
    # Both hosts have the same name, so nodes are told apart by what follows the colon.
    places = set()
    while len(places) < 2:
        places.add(job.wait_for(process, rf"net fold \d on \S+:(?!{'|'.join(places) or '!'})(\w+): epoch")[1])
    ip("-n", hosts[1], "link", "set", "cable", "down")
    job.wait_for(process, r"was lost")
    job.succeed(process)

    assert job.results() == whole.results()
