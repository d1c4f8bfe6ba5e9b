"""Two Ray nodes in network namespaces of their own lose their connection."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_job import ClusterJob

HEAD, OTHER = "10.231.7.1", "10.231.7.2"
RAY = str(Path(sys.executable).with_name("ray"))
# The namespaces have no route to other networks, so the guard of the other tests is not needed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "token",  # as in docs/cluster.md
    "RAY_AUTH_TOKEN": "5" * 64,
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


def _can_create_hosts():
    name = f"probe-{os.getpid()}"
    if shutil.which("ip") is None or ip("netns", "add", name, check=False).returncode:
        return False
    ip("netns", "delete", name)
    return True


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not _can_create_hosts(), reason="needs iproute2, and the right to create network namespaces"),
]


@pytest.fixture
def hosts():
    """Two namespaces that a virtual cable connects, with a node of one core each; the first is the head."""
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


def _start_node(host, address, *arguments):
    command = [RAY, "start", "--node-ip-address", address, "--num-cpus", "1", "--object-store-memory", "104857600"]
    process = subprocess.run(
        ["ip", "netns", "exec", host, *command, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


class HostJob(ClusterJob):
    """The job with its driver on a host."""

    def on(self, host):
        self._command = ["ip", "netns", "exec", host, *self._command]
        return self


def test_lost_connection_does_not_change_the_results(hosts, tmp_path, monkeypatch):
    reference = ClusterJob.with_epochs(tmp_path / "reference", epochs=60)
    reference.succeed()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH")
    job = HostJob.with_epochs(tmp_path / "cut", "--executor", "ray", "--address", f"{HEAD}:6379", epochs=60).on(
        hosts[0]
    )
    process = job.start()
    # Both hosts have the same name; the part after the colon identifies a node.
    nodes = set()
    while len(nodes) < 2:
        nodes.add(job.wait_for(process, rf"airbench fold \d on \S+:(?!{'|'.join(nodes) or '!'})(\w+): epoch")[1])
    ip("-n", hosts[1], "link", "set", "cable", "down")
    job.wait_for(process, r"was lost")
    job.succeed(process)

    assert job.results() == reference.results()
