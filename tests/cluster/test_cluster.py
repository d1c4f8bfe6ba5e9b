"""A real Ray cluster of three nodes on this machine: `make test-cluster`. No node sees the run folder."""

import os
import re
import signal
import socket
from functools import cache

import pytest
from cluster_job import ClusterJob

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def local_results(tmp_path_factory):
    """Return the job's results by the local executor, for a number of epochs."""

    @cache
    def results(epochs=12):
        job = ClusterJob.with_epochs(tmp_path_factory.mktemp("local"), epochs=epochs)
        job.succeed()
        return job.results()

    return results


def own_address(monkeypatch):
    """Return this machine's address in its network. No packet is sent."""
    other = "198.51.100.1"
    monkeypatch.setenv("THIS_MACHINE", other)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((other, 9))
        return sock.getsockname()[0]


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes of one core each; the first is the head."""
    from ray.cluster_utils import Cluster

    address = own_address(monkeypatch)
    monkeypatch.setenv("THIS_MACHINE", address)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    three_nodes = Cluster()
    for _ in range(3):
        three_nodes.add_node(**NODE, node_ip_address=address)
    yield three_nodes
    three_nodes.shutdown()


def ray_options(cluster):
    return "--executor", "ray", "--address", cluster.address


def kill_node(cluster, name):
    """Kill a node's raylet and all its processes at once; `name` is as in the job's output."""
    (node,) = [node for node in cluster.list_all_nodes() if node.node_id.startswith(name.partition(":")[2])]
    cluster.remove_node(node, allow_graceful=False)


def another_node(cluster, name):
    """Return the name of a node that is neither the head nor the given one."""
    host, _, other_id = name.partition(":")
    ids = [node.node_id[:4] for node in cluster.list_all_nodes() if node is not cluster.head_node]
    return next(f"{host}:{node_id}" for node_id in ids if node_id != other_id)


def test_three_nodes_give_the_same_bytes_as_one_process(cluster, local_results, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster))
    job.succeed()

    assert "cluster nodes (3): " in job.output()
    assert len(set(re.findall(r"fold \d on (\S+): epoch", job.output()))) > 1
    assert job.results() == local_results()


def test_cluster_is_started_here_without_an_address(local_results, monkeypatch, tmp_path):
    monkeypatch.setenv("THIS_MACHINE", own_address(monkeypatch))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray saves a token there
    job = ClusterJob.with_epochs(tmp_path, "--executor", "ray")
    job.succeed()

    assert "cluster nodes (1): " in job.output()
    assert job.results() == local_results()


def test_shared_storage_gives_the_same_bytes(cluster, local_results, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), "--set", f"machine.shared_dir={shared}")
    process = job.start()
    job.wait_for(process, r"fold \d on \S+: epoch 1/")
    (folder,) = shared.iterdir()
    job.succeed(process)

    assert folder.name.startswith("results-")
    assert list(shared.iterdir()) == []
    assert job.results() == local_results()


def test_killed_nodes_do_not_change_the_results(cluster, local_results, tmp_path):
    """One node is killed during training, one during prediction."""
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), epochs=60)
    process = job.start()
    head = cluster.head_node.node_id[:4]
    name = job.wait_for(process, rf"fold \d on (\S+:(?!{head})\w+): epoch [3-9]/60")[1]
    kill_node(cluster, name)
    job.wait_for(process, r"was lost")
    cluster.add_node(**NODE, node_ip_address=cluster.head_node.node_ip_address)
    name = job.wait_for(process, r"fold \d on (\S+): predicted \d+ of \d+ test images")[1]
    before = job.output().count("was lost")
    kill_node(cluster, another_node(cluster, name))
    job.succeed(process)

    assert before >= 1
    assert job.results() == local_results(60)


def test_job_resumes_after_its_driver_is_killed(cluster, local_results, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), epochs=60)
    process = job.start()
    job.wait_for(process, r"airbench fold 0 on \S+: epoch [2-9]/60")
    process.kill()
    process.wait()
    job.succeed()

    first = re.search(r"airbench fold 0 on \S+: epoch (\d+)/60", job.output())
    assert int(first[1]) > 2
    assert job.results() == local_results(60)


def test_ctrl_c_exits_cleanly(cluster, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), epochs=60)
    process = job.start()
    job.wait_for(process, r"airbench fold 0 on \S+: epoch [2-9]/60")
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 130
    assert "rerun the same command to resume" in job.output()
    assert "Traceback" not in job.output()


def test_user_error_of_a_node_is_reported_and_not_retried(cluster, tmp_path):
    job = ClusterJob.with_epochs(tmp_path, *ray_options(cluster), "--set", "members.tutorial.train.optimizer.lr=1e30")
    process = job.start()

    assert process.wait(timeout=200) == 1
    assert re.search(r"error: tutorial fold \d: the loss is (nan|inf) at epoch", job.output())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--address", "127.0.0.1:1"), r"error: no Ray cluster at 127\.0\.0\.1:1"),
        (("--set", "machine.threads_per_job=64"), r"error: a job needs 64 threads, but no node has that many cores"),
        (
            ("--set", "machine.shared_dir=nowhere"),
            r"error: machine\.shared_dir: no folder can be created in nowhere: does not exist",
        ),
    ],
)
def test_impossible_settings_fail_at_once(cluster, tmp_path, options, message):
    address = () if "--address" in options else ("--address", cluster.address)
    job = ClusterJob.with_epochs(tmp_path, "--executor", "ray", *address, *options)
    process = job.start()

    assert process.wait(timeout=120) == 1
    assert re.search(message, job.output())
    assert "Traceback" not in job.output()


@pytest.fixture
def disconnected():
    """Disconnect this process from the cluster after the test."""
    import ray

    yield
    ray.shutdown()


def connect(cluster, **settings):
    from pipeline.config import MachineConfig
    from pipeline.executors.ray_executor import RayExecutor

    with RayExecutor(MachineConfig(threads_per_job=1, **settings), cluster.address):
        pass


def test_nodes_with_other_versions_are_rejected(cluster, disconnected, monkeypatch):
    from pipeline.errors import ConfigError
    from pipeline.executors import ray_worker

    monkeypatch.setattr(ray_worker, "versions", lambda: {"torch": "0.1", "python": "3.11"})
    with pytest.raises(ConfigError, match=r"versions differ(?s:.*):\w{4} has torch \S+, the driver has 0\.1"):
        connect(cluster)


def test_node_that_does_not_see_the_shared_folder_is_rejected(cluster, disconnected, monkeypatch, tmp_path):
    from pipeline.errors import ConfigError
    from pipeline.executors import ray_executor

    monkeypatch.setattr(ray_executor, "_results_folder", lambda shared_dir: shared_dir / "on this machine only")
    with pytest.raises(ConfigError, match=r"machine\.shared_dir: \S+:\w{4} does not see "):
        connect(cluster, shared_dir=tmp_path)


def test_task_that_is_lost_three_times_fails(cluster, disconnected):
    import ray

    from pipeline.errors import RunError
    from pipeline.executors.ray_retry import RetryingTasks

    def vanish():
        os._exit(1)

    ray.init(address=cluster.address, log_to_driver=False)
    remote = ray.remote(vanish).options(max_retries=0)
    with pytest.raises(RunError, match=r"airbench fold 7 was lost 3 times, the last time by \w+Error: "):
        list(RetryingTasks(lambda _: remote.remote(), ["airbench fold 7"]).results())
