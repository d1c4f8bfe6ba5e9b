"""Jobs on a Ray cluster: `--executor ray`. Ray schedules; what the jobs make comes back here and is kept here."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import pipeline
from pipeline.data.image_cache import ImageStore
from pipeline.config import MachineConfig
from pipeline.errors import ConfigError, RunError
from pipeline.executors import ray_worker
from pipeline.executors.ray_retry import RetryingTasks, first_line
from pipeline.executors.remote_progress import remote_progress
from pipeline.executors.fold_job import PredictRequest, FoldJob
from pipeline.progress import ProgressDisplay, log
from pipeline.runs.run_folder import FoldTable

# A node behind a cut cable ends no connection. Ray asks after 300 s whether it is there, and gives it 120 s to answer.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": 20_000, "RAY_grpc_client_keepalive_timeout_ms": 20_000}


class RayExecutor:
    """A Ray cluster that is there (`address`: auto, or HOST:PORT), or one that is started on this machine."""

    def __init__(self, config: MachineConfig, address: str | None) -> None:
        # The same number of threads everywhere: it is part of what makes the bytes.
        num_threads = config.num_threads or joblib.cpu_count()
        self._config = config.model_copy(update={"num_threads": num_threads})
        self._address = address
        self._resources: dict[str, float] = {"num_cpus": num_threads}
        self._nodes: dict[str, str] = {}
        self._kept: dict[int, Any] = {}
        self._shared: Path | None = None

    def __enter__(self) -> "RayExecutor":
        """Connect, and see that all nodes have the same versions. Raises RunError or ConfigError."""
        settings: dict[str, Any] = {
            "runtime_env": {
                "py_modules": [str(Path(pipeline.__file__).parent)],
                "env_vars": {"GOMP_SPINCOUNT": "10000"},
            },
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if self._address is None:
            settings["include_dashboard"] = False
        # Training and prediction use one connection, so that the nodes' processes stay warm; it ends with this process.
        if not ray.is_initialized():
            _check_reachable(self._address)
            for name, milliseconds in KEEPALIVE.items():
                os.environ.setdefault(name, str(milliseconds))
            try:
                # Without an address Ray would look for any cluster, also for one of which only a file is left.
                ray.init(address=self._address or "local", **settings)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                place = f"at {self._address}" if self._address else "can be started here"
                raise RunError(f"no Ray cluster {place}: {first_line(error)}") from None
        wants_gpu = self._config.device == "cuda" or (
            self._config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
        )
        if wants_gpu:
            self._resources["num_gpus"] = self._config.gpu_share
        self._shared = _folder_in(self._config.shared_dir)
        self._look_at_nodes()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the images go, and what nobody fetched from shared storage."""
        self._kept.clear()
        if self._shared is not None:
            shutil.rmtree(self._shared, ignore_errors=True)

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: ProgressDisplay) -> None:
        """Train all folds at once, as many as there is room for; each epoch's checkpoint comes back here."""
        images, kept_table = self._put(store), ray.put(table)
        remote = ray.remote(node.train).options(num_returns="streaming", max_retries=0, **self._resources)

        def start(job: FoldJob) -> Any:
            return remote.remote(job, job.folder.export(), images, store.ids, kept_table, self._config, self._shared)

        with remote_progress(view, table) as shown:
            for job, (place, record, parcel) in RetryingTasks(start, jobs).results():
                job.folder.take(parcel.open())
                if record is None:
                    shown.finished(job)
                else:
                    shown.epoch(job, record, place)

    def predict(self, jobs: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, view: ProgressDisplay) -> None:
        """ModelPass about all slices at once, as many as there is room for."""
        images = self._put(store)
        remote = ray.remote(node.predict).options(max_retries=0, **self._resources)
        slices = {
            f"{job} {asked.name} slice {number}": (job, replace(asked, rows=rows), number)
            for job, asked in jobs
            for number, rows in job.missing_slices(store, asked.rows, asked.name).items()
        }
        weights = {str(job): ray.put(job.folder.export(("weights.safetensors",))) for job, *_ in slices.values()}

        def start(name: str) -> Any:
            job, asked, number = slices[name]
            return remote.remote(job, weights[str(job)], images, store.ids, asked, number, self._config, self._shared)

        total = sum(len(asked.rows) for _, asked, _ in slices.values())
        work = sum(job.prediction_flops(len(asked.rows), asked) for job, asked, _ in slices.values())
        done = 0
        with view.bar(f"test images on {len(self._nodes)} nodes", work=work) as bar:
            for name, (place, parcel) in RetryingTasks(start, list(slices)).results():
                job, asked, _ = slices[name]
                job.folder.take(parcel.open())
                done += len(asked.rows)
                bar(done, total)
                log.info("%s on %s: %s of %s test images predicted", job, place, f"{done:,}", f"{total:,}")

    def _put(self, store: ImageStore) -> Any:
        """Hand the images to Ray once; each node that needs them fetches them once."""
        if id(store) not in self._kept:
            self._kept[id(store)] = ray.put(np.asarray(store.images))
        return self._kept[id(store)]

    def _look_at_nodes(self) -> None:
        alive = [each for each in ray.nodes() if each["Alive"]]
        if max((each["Resources"].get("CPU", 0) for each in alive), default=0) < self._resources["num_cpus"]:
            raise ConfigError(
                f"a job takes {self._resources['num_cpus']:.0f} threads, and no node has so many cores; set "
                "machine.num_threads to what a node has"
            )
        ask, asked = ray.remote(node.describe_node), {}
        for each in alive:
            there = NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
            remote = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[each["NodeID"]] = remote.remote(self._shared)
        here, different = node.versions(), []
        for each, answer in asked.items():
            try:
                self._nodes[each], found, sees_shared = ray.get(answer, timeout=120)
            except RayError as error:
                raise RunError(f"node {each[:8]} of the cluster does not answer: {first_line(error)}") from None
            different += [
                f"{self._nodes[each]} has {name} {found[name]}, here it is {here[name]}"
                for name in here
                if found[name] != here[name]
            ]
            if not sees_shared:
                raise ConfigError(
                    f"machine.shared_dir: {self._nodes[each]} does not see {self._config.shared_dir}, where this "
                    "machine has just made a folder; name a folder that all nodes share, or set it to null"
                )
        if different:
            raise ConfigError(
                "the cluster's nodes are not alike; install the same on all:\n  " + "\n  ".join(different)
            )
        log.info("nodes of the cluster (%d): %s", len(self._nodes), ", ".join(sorted(self._nodes.values())))


def _check_reachable(address: str | None) -> None:
    """Raise RunError if nobody listens: Ray itself would try for ever."""
    host, _, port = (address or "auto").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise RunError(f"no Ray cluster at {address}: {error}; ray start --head tells the address") from None


def _folder_in(shared_dir: Path | None) -> Path | None:
    """Make a new folder on shared storage, if there is some. Raises ConfigError."""
    if shared_dir is None:
        return None
    try:
        return Path(tempfile.mkdtemp(prefix="cifar-10-results-", dir=shared_dir.absolute()))
    except OSError as error:
        raise ConfigError(f"machine.shared_dir: no folder can be made in {shared_dir}: {error.strerror}") from None
