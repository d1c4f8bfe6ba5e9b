"""A real Ray cluster of three nodes on this machine: `make test-cluster`. No node sees the run's folder."""

import os
import re
import signal
import socket

import pytest
from cluster_job import ClusterJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """What the local executor makes of the job, for a number of epochs."""
    made = {}

    def results(epochs=12):
        if epochs not in made:
            job = ClusterJob.with_epochs(tmp_path_factory.mktemp("local"), epochs=epochs)
            job.succeed()
            made[epochs] = job.results()
        return made[epochs]

    return results


def own_address(monkeypatch):
    """Return the address by which this machine reaches others. No packet is sent."""
    elsewhere = "198.51.100.1"
    monkeypatch.setenv("THIS_MACHINE", elsewhere)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((elsewhere, 9))
        return sock.getsockname()[0]


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes of one core each; the first is the head."""
    from ray.cluster_utils import Cluster

    here = own_address(monkeypatch)
    monkeypatch.setenv("THIS_MACHINE", here)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    found = Cluster()
    for _ in range(3):
        found.add_node(**NODE, node_ip_address=here)
    yield found
    found.shutdown()


def ray_options(cluster):
    return "--executor", "ray", "--address", cluster.address


def kill_node(cluster, name):
    """Kill a node's raylet and all its processes at once; `name` is as the job shows it."""
    (node,) = [each for each in cluster.list_all_nodes() if each.node_id.startswith(name.partition(":")[2])]
    cluster.remove_node(node, allow_graceful=False)


def another_node(cluster, name):
    """Return a node that is neither the head nor the one named."""
    ids = [each.node_id[:4] for each in cluster.list_all_nodes() if each is not cluster.head_node]
    return next(f"{name.partition(':')[0]}:{each}" for each in ids if each != name.partition(":")[2])


def test_three_nodes_give_the_bytes_of_one_process(cluster, local, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster))
    job.succeed()

    assert "nodes of the cluster (3): " in job.said()
    assert len(set(re.findall(r"fold \d on (\S+): epoch", job.said()))) > 1
    assert job.results() == local()


def test_without_an_address_a_cluster_is_started_here(local, monkeypatch, tmp_path):
    monkeypatch.setenv("THIS_MACHINE", own_address(monkeypatch))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    job = ClusterJob.with_epochs(tmp_path, "--executor", "ray")
    job.succeed()

    assert "nodes of the cluster (1): " in job.said()
    assert job.results() == local()


def test_results_through_shared_storage_are_the_same_bytes(cluster, local, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), "--set", f"machine.shared_dir={shared}")
    process = job.start()
    job.wait_for(process, r"fold \d on \S+: epoch 1 of")
    (folder,) = shared.iterdir()
    job.succeed(process)

    assert folder.name.startswith("cifar-10-results-")
    assert list(shared.iterdir()) == []
    assert job.results() == local()


def test_nodes_that_are_killed_cost_no_byte(cluster, local, tmp_path):
    """One in the middle of a fold, one in the middle of the prediction."""
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), epochs=150)
    process = job.start()
    head = cluster.head_node.node_id[:4]
    name = job.wait_for(process, rf"fold \d on (\S+:(?!{head})\w+): epoch [3-9] of 150")[1]
    kill_node(cluster, name)
    job.wait_for(process, r"was lost")
    cluster.add_node(**NODE, node_ip_address=cluster.head_node.node_ip_address)
    name = job.wait_for(process, r"fold \d on (\S+): \d+ of \d+ test images predicted")[1]
    before = job.said().count("was lost")
    kill_node(cluster, another_node(cluster, name))
    job.succeed(process)

    assert before >= 1
    assert job.results() == local(150)


def test_a_killed_driver_goes_on(cluster, local, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), epochs=150)
    process = job.start()
    job.wait_for(process, r"net fold 0 on \S+: epoch [2-9] of 150")
    process.kill()
    process.wait()
    job.succeed()

    first = re.search(r"net fold 0 on \S+: epoch (\d+) of 150", job.said())
    assert int(first[1]) > 2
    assert job.results() == local(150)


def test_ctrl_c_is_a_clean_end(cluster, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), epochs=150)
    process = job.start()
    job.wait_for(process, r"net fold 0 on \S+: epoch [2-9] of 150")
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 130
    assert "the same command goes on from there" in job.said()
    assert "Traceback" not in job.said()


def test_an_error_of_ours_is_told_and_not_tried_again(cluster, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), "--set", "members.tutorial.train.optimizer.lr=1e30")
    process = job.start()

    assert process.wait(timeout=200) == 1
    assert re.search(r"error: tutorial fold \d: the loss is (nan|inf) at epoch", job.said())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--address", "127.0.0.1:1"), r"error: no Ray cluster at 127\.0\.0\.1:1"),
        (("--set", "machine.num_threads=64"), r"error: a job takes 64 threads, and no node has so many cores"),
        (
            ("--set", "machine.shared_dir=nowhere"),
            r"error: machine\.shared_dir: no folder can be made in nowhere: No such",
        ),
    ],
)
def test_what_can_not_run_is_told_at_once(cluster, tmp_path, options, message):
    address = () if "--address" in options else ("--address", cluster.address)
    job = ClusterJob.with_epochs(tmp_path, "--executor", "ray", *address, *options)
    process = job.start()

    assert process.wait(timeout=120) == 1
    assert re.search(message, job.said())
    assert "Traceback" not in job.said()


@pytest.fixture
def disconnected():
    """End what a test connects in its own process."""
    import ray

    yield
    ray.shutdown()


def enter(cluster, **settings):
    from pipeline.config import MachineConfig
    from pipeline.executors.ray_executor import RayExecutor

    with RayExecutor(MachineConfig(num_threads=1, **settings), cluster.address):
        pass


def test_nodes_with_other_versions_are_named(cluster, disconnected, monkeypatch):
    from pipeline.errors import ConfigError
    from pipeline.executors import ray_worker

    monkeypatch.setattr(node, "versions", lambda: {"torch": "0.1", "python": "3.11"})
    with pytest.raises(ConfigError, match=r"nodes are not alike(?s:.*):\w{4} has torch \S+, here it is 0\.1"):
        enter(cluster)


def test_a_node_that_does_not_see_the_shared_folder_is_named(cluster, disconnected, monkeypatch, tmp_path):
    from pipeline.errors import ConfigError
    from pipeline.executors import ray_executor as room

    monkeypatch.setattr(room, "_folder_in", lambda shared_dir: shared_dir / "on this machine only")
    with pytest.raises(ConfigError, match=r"machine\.shared_dir: \S+:\w{4} does not see "):
        enter(cluster, shared_dir=tmp_path)


def test_a_job_that_is_lost_again_and_again_is_given_up(cluster, disconnected):
    import ray

    from pipeline.errors import RunError
    from pipeline.executors.ray_retry import RetryingTasks

    def vanish():
        os._exit(1)

    ray.init(address=cluster.address, log_to_driver=False)
    remote = ray.remote(vanish).options(max_retries=0)
    with pytest.raises(RunError, match=r"net fold 7 was lost 3 times, the last time by \w+Error: "):
        list(RetryingTasks(lambda _: remote.remote(), ["net fold 7"]).results())
