"""What Ray costs: the same folds through it and without it, empty jobs, and two nodes against one.

The seconds that a fold takes may be given: `python tests/benchmarks/cluster.py 60`.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling); as high in the queue as this process

import ray
from ray.cluster_utils import Cluster

from pipeline.demo.dataset import make_synthetic_dataset
from pipeline.data.prepare import prepare
from pipeline.data.source import find_source
from pipeline.config import MachineConfig, MemberConfig, ModelConfig, MuonConfig, OptimizerConfig, TrainConfig
from pipeline.executors.ray_executor import RayExecutor
from pipeline.executors.executor import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.executors.ray_retry import RetryingTasks
from pipeline.executors.fold_job import FoldJob
from pipeline.learning.device import set_up_machine
from pipeline.progress import progress_display
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import FoldTable

NUM_EMPTY, NUM_FOLDS, SECONDS = 1000, 4, 8.0
NUM_TRAIN = 6000  # so that an epoch lasts seconds: its checkpoint travels, and real epochs last a minute
MACHINE = MachineConfig(num_threads=1)
MEMBER = MemberConfig(
    model=ModelConfig(name="airbench94_small"),
    train=TrainConfig(epochs=1, batch_size=256, optimizer=OptimizerConfig(muon=MuonConfig(lr=0.1))),
)


def seconds_of(executor: Executor, folder: Path, input_dir: Path, epochs: int = 1) -> float:
    """Train all folds in a new folder."""
    member = MEMBER.model_copy(update={"train": MEMBER.train.model_copy(update={"epochs": epochs})})
    stores, labels = prepare(input_dir, None), find_source(input_dir).labels()
    folds = labels.ids % NUM_FOLDS
    table = FoldTable(labels.ids, labels.classes, folds, labels.ids)
    jobs = [FoldJob("net", member, n, n, "identity", FoldFolder(folder / str(n))) for n in range(NUM_FOLDS)]
    began = time.perf_counter()
    with progress_display() as view:
        executor.train(jobs, stores["train"], table, view)
    return time.perf_counter() - began


def empty() -> None:
    """Do nothing."""


def on_nodes(num_nodes: int, folder: Path, input_dir: Path, epochs: int) -> tuple[float, float]:
    """Return the seconds of the folds, and of one of many empty jobs, on nodes of one core each."""
    cluster = Cluster()
    for _ in range(num_nodes):
        cluster.add_node(num_cpus=1, object_store_memory=200 << 20, include_dashboard=False)
    try:
        with RayExecutor(MACHINE, cluster.address) as executor:
            seconds_of(executor, folder / "warm", input_dir)
            seconds = seconds_of(executor, folder / "timed", input_dir, epochs)
            remote = ray.remote(empty).options(num_cpus=1, max_retries=0)
            began = time.perf_counter()
            assert sum(1 for _ in RetryingTasks(lambda _: remote.remote(), range(NUM_EMPTY)).results()) == NUM_EMPTY
            return seconds, (time.perf_counter() - began) / NUM_EMPTY
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Print what a job costs through Ray, and what a second node brings; once each."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_synthetic_dataset(folder / "input", num_train=NUM_TRAIN, num_test=10)
        local = LocalExecutor(set_up_machine(MACHINE))
        seconds_of(local, folder / "warm", folder / "input")
        an_epoch = seconds_of(local, folder / "an epoch", folder / "input") / NUM_FOLDS
        epochs = max(1, round((float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS) / an_epoch))
        alone = seconds_of(local, folder / "local", folder / "input", epochs)
        one, empty_job = on_nodes(1, folder / "one", folder / "input", epochs)
        two, _ = on_nodes(2, folder / "two", folder / "input", epochs)
    print(f"{NUM_FOLDS} folds of {alone / NUM_FOLDS:.1f} s, one thread each:")
    print(f"here {alone:.1f} s, on one node {one:.1f} s, on two {two:.1f} s")
    print(f"one node / here: {one / alone:.3f}; a job costs {(one - alone) / NUM_FOLDS:.2f} s more")
    print(f"one node / two nodes: {one / two:.2f}")
    print(f"an empty job, {NUM_EMPTY} of them: {1000 * empty_job:.1f} ms")


if __name__ == "__main__":
    main()
