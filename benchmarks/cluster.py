"""The overhead of Ray: the same folds with and without it, empty jobs, and two nodes against one.

An argument sets the seconds per fold: `python benchmarks/cluster.py 60`.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling); the priority of this process

import ray
from ray.cluster_utils import Cluster

from pipeline.config import MachineConfig
from pipeline.data.image_cache import cache_folder
from pipeline.data.prepare import prepare
from pipeline.data.source import find_source
from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.executors.executor import Executor
from pipeline.executors.fold_job import FoldJob
from pipeline.executors.local import LocalExecutor
from pipeline.executors.ray_executor import RayExecutor
from pipeline.executors.ray_retry import RetryingTasks
from pipeline.learning.device import set_up_machine
from pipeline.member_config import MemberConfig, ModelConfig, MuonConfig, OptimizerConfig, TrainConfig
from pipeline.progress import progress_display
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.task import CIFAR10

NUM_EMPTY, NUM_FOLDS, SECONDS = 1000, 4, 8.0
NUM_TRAIN = 6000  # so that an epoch lasts seconds: its checkpoint is transferred, and real epochs take a minute
MACHINE = MachineConfig(threads_per_job=1)
MEMBER = MemberConfig(
    model=ModelConfig(name="airbench94_small"),
    train=TrainConfig(epochs=1, batch_size=256, optimizer=OptimizerConfig(muon=MuonConfig(lr=0.1))),
)


def time_folds(executor: Executor, folder: Path, input_dir: Path, epochs: int = 1) -> float:
    """Return the seconds of training all folds in a new folder."""
    member = MEMBER.model_copy(update={"train": MEMBER.train.model_copy(update={"epochs": epochs})})
    source = find_source(input_dir, CIFAR10)
    stores, labels = prepare(source, cache_folder(None, input_dir)), source.labels()
    table = FoldTable(labels.ids, labels.labels, folds=labels.ids % NUM_FOLDS, groups=labels.ids)
    jobs = [
        FoldJob("airbench", member, CIFAR10, fold, seed=fold, tta="none", folder=FoldFolder(folder / str(fold)))
        for fold in range(NUM_FOLDS)
    ]
    start = time.perf_counter()
    with progress_display() as display:
        executor.train(jobs, stores["train"], table, display)
    return time.perf_counter() - start


def empty() -> None:
    """Do nothing."""


def time_cluster(num_nodes: int, folder: Path, input_dir: Path, epochs: int) -> tuple[float, float]:
    """Return the seconds of all folds, and of one empty job, on nodes of one core each."""
    cluster = Cluster()
    for _ in range(num_nodes):
        cluster.add_node(num_cpus=1, object_store_memory=200 << 20, include_dashboard=False)
    try:
        with RayExecutor(MACHINE, cluster.address) as executor:
            time_folds(executor, folder / "warm", input_dir)
            seconds = time_folds(executor, folder / "timed", input_dir, epochs)
            remote = ray.remote(empty).options(num_cpus=1, max_retries=0)
            start = time.perf_counter()
            assert sum(1 for _ in RetryingTasks(lambda _: remote.remote(), range(NUM_EMPTY)).results()) == NUM_EMPTY
            return seconds, (time.perf_counter() - start) / NUM_EMPTY
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Print the overhead of a job on Ray and the speedup of a second node, each measured once."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_synthetic_dataset(folder / "input", num_train=NUM_TRAIN, num_test=10)
        local = LocalExecutor(set_up_machine(MACHINE))
        time_folds(local, folder / "warm", folder / "input")
        epoch_seconds = time_folds(local, folder / "epoch", folder / "input") / NUM_FOLDS
        epochs = max(1, round((float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS) / epoch_seconds))
        local_seconds = time_folds(local, folder / "local", folder / "input", epochs)
        one, empty_job = time_cluster(1, folder / "one", folder / "input", epochs)
        two, _ = time_cluster(2, folder / "two", folder / "input", epochs)
    print(f"{NUM_FOLDS} folds of {local_seconds / NUM_FOLDS:.1f} s, one thread each:")
    print(f"local {local_seconds:.1f} s, on one node {one:.1f} s, on two {two:.1f} s")
    print(f"one node / local: {one / local_seconds:.3f}; overhead per job {(one - local_seconds) / NUM_FOLDS:.2f} s")
    print(f"one node / two nodes: {one / two:.2f}")
    print(f"an empty job, mean of {NUM_EMPTY}: {1000 * empty_job:.1f} ms")


if __name__ == "__main__":
    main()
