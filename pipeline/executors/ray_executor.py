"""Fold jobs on a Ray cluster (`--executor ray`). Ray schedules; the driver receives and saves the results."""

import io
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import pipeline
from pipeline.config import MachineConfig
from pipeline.cores import available_cores
from pipeline.data.image_store import ImageStore
from pipeline.error_messages import explain_cause
from pipeline.errors import ConfigError, RunError
from pipeline.executors import ray_worker
from pipeline.executors.executor import NO_OBSERVER, TrainingObserver
from pipeline.executors.fold_job import FoldJob, PredictRequest
from pipeline.executors.ray_retry import RetryingTasks, first_line
from pipeline.executors.remote_progress import remote_progress
from pipeline.executors.slices import MissingSlice, SlicedRequests
from pipeline.predictions import Predictions
from pipeline.progress import Display, log
from pipeline.runs.fold_folder import OUT_OF_FOLD, WEIGHTS
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.prediction_files import parse_predictions

# A node behind a cut cable does not close its connections. Ray's defaults are 300 s until a keepalive ping, and 120 s
# for its answer.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": 20_000, "RAY_grpc_client_keepalive_timeout_ms": 20_000}
RESOURCE_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}  # of a task -> of a node
NODE_TIMEOUT = 120.0  # seconds until a node has reported its versions


class RayExecutor:
    """An existing Ray cluster (`address`: auto, or HOST:PORT), or one that is started on this machine."""

    def __init__(self, config: MachineConfig, address: str | None) -> None:
        # The same number of threads on all nodes: the results depend on it.
        num_threads = available_cores() if config.threads_per_job == "auto" else config.threads_per_job
        self._config = config.model_copy(update={"threads_per_job": num_threads})
        self._address = address
        self._resources: dict[str, float] = {"num_cpus": num_threads}
        self._node_names: dict[str, str] = {}
        self._image_refs: dict[int, Any] = {}
        self._results_dir: Path | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> "RayExecutor":
        """Connect, and check that all nodes have the same versions. Raises RunError or ConfigError."""
        self._connect()
        uses_gpu = self._config.device == "cuda" or (
            self._config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
        )
        if uses_gpu:
            self._resources["num_gpus"] = self._config.gpu_share
        self._results_dir = _results_folder(self._config.shared_dir)
        self._check_nodes()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the images, and remove orphaned results from shared storage."""
        self._image_refs.clear()
        if self._results_dir is not None:
            shutil.rmtree(self._results_dir, ignore_errors=True)

    @property
    def num_slots(self) -> int:
        """How many jobs the cluster's nodes run at the same time."""
        needed = {name: self._resources[key] for key, name in RESOURCE_NAMES.items() if key in self._resources}
        return sum(
            int(min(node["Resources"].get(name, 0) / amount for name, amount in needed.items()))
            for node in ray.nodes()
            if node["Alive"]
        )

    def stop(self) -> None:
        """Cancel all tasks, whose threads see it within a moment."""
        self._stopped.set()

    def train(
        self,
        jobs: Sequence[FoldJob],
        store: ImageStore,
        table: FoldTable,
        display: Display,
        observer: TrainingObserver = NO_OBSERVER,
    ) -> list[Predictions]:
        """Train all folds, as many at a time as resources allow; each epoch's checkpoint is saved on the driver."""
        images, table_ref = self._put_images(store), ray.put(table)
        remote = ray.remote(ray_worker.train).options(num_returns="streaming", max_retries=0, **self._resources)
        results: dict[str, Predictions] = {}

        def start(job: FoldJob) -> Any:
            files = job.folder.export_unfinished()
            return remote.remote(job, files, images, store.ids, table_ref, self._config, self._results_dir)

        with (
            remote_progress(display, table) as progress,
            closing(RetryingTasks(start, jobs, self._stopped).results()) as arrivals,
        ):
            for job, (node, record, files) in arrivals:
                received = files.read()
                job.folder.import_files(received)
                if record is not None:
                    progress.report_epoch(job, record, node)
                    observer.on_epoch(job, record)
                else:
                    results[str(job)] = parse_predictions(io.BytesIO(received[OUT_OF_FOLD]))
                    job.log_accuracy(results[str(job)], table)
                    observer.on_trained(job, results[str(job)])
        return [results[str(job)] for job in jobs]

    def predict(
        self, requests: Sequence[tuple[FoldJob, PredictRequest]], store: ImageStore, display: Display
    ) -> Generator[Predictions, None, None]:
        """Predict all slices, as many at a time as resources allow."""
        slices = SlicedRequests(requests, store)
        with closing(self._run_predictions(slices, store, display)) as arrivals:
            for missing, predictions in arrivals:
                slices.add(missing, predictions)
                yield from slices.joined()
        yield from slices.joined()

    def _run_predictions(
        self, slices: SlicedRequests, store: ImageStore, display: Display
    ) -> Generator[tuple[MissingSlice, Predictions], None, None]:
        """Predict the missing slices; yield their predictions as they arrive."""
        images = self._put_images(store)
        remote = ray.remote(ray_worker.predict).options(max_retries=0, **self._resources)
        jobs = {each.request_index: each.job for each in slices.missing}
        weights = {index: ray.put(job.folder.export_files((WEIGHTS,))) for index, job in jobs.items()}

        def start(each: MissingSlice) -> Any:
            files = weights[each.request_index]
            return remote.remote(
                each.job, files, images, store.ids, each.request, each.index, self._config, self._results_dir
            )

        done, total = 0, slices.num_images
        with (
            display.bar(f"test images on {len(self._node_names)} nodes", flops=slices.flops) as bar,
            closing(RetryingTasks(start, slices.missing, self._stopped).results()) as arrivals,
        ):
            for each, (node, files) in arrivals:
                received = files.read()
                each.job.folder.import_files(received)
                (data,) = received.values()
                done += each.num_images
                bar(done, total)
                log.info("%s on %s: predicted %s of %s test images", each.job, node, f"{done:,}", f"{total:,}")
                yield each, parse_predictions(io.BytesIO(data))

    def _connect(self) -> None:
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
        # Training and prediction share one connection, so that the nodes' processes stay warm until this process ends.
        if ray.is_initialized():
            return
        _check_reachable(self._address)
        for name, milliseconds in KEEPALIVE.items():
            os.environ.setdefault(name, str(milliseconds))
        try:
            # Without an address Ray would connect to any cluster, even to one that has ended and left its address file.
            ray.init(address=self._address or "local", **settings)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            what = f"no Ray cluster at {self._address}" if self._address else "a Ray cluster can't be started here"
            raise RunError(f"{what}: {first_line(error)}") from None

    def _put_images(self, store: ImageStore) -> Any:
        """Put the images into Ray's object store once; each node fetches them once."""
        if id(store) not in self._image_refs:
            self._image_refs[id(store)] = ray.put(np.asarray(store.images))
        return self._image_refs[id(store)]

    def _check_nodes(self) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if max((node["Resources"].get("CPU", 0) for node in nodes), default=0) < self._resources["num_cpus"]:
            raise ConfigError(
                f"a job needs {self._resources['num_cpus']:.0f} threads, but no node has that many cores; set "
                "machine.threads_per_job to the number of cores of a node"
            )
        describe, references = ray.remote(ray_worker.describe_node), {}
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = describe.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
            references[node["NodeID"]] = remote.remote(self._results_dir)
        expected, mismatches = ray_worker.versions(), []
        for node_id, reference in references.items():
            try:
                name, versions, sees_shared_dir = ray.get(reference, timeout=NODE_TIMEOUT)
            except RayError as error:
                raise RunError(f"node {node_id[:8]} of the cluster does not respond: {first_line(error)}") from None
            self._node_names[node_id] = name
            mismatches += [
                f"{name} has {package} {versions[package]}, the driver has {expected[package]}"
                for package in expected
                if versions[package] != expected[package]
            ]
            if not sees_shared_dir:
                raise ConfigError(
                    f"machine.shared_dir: {name} does not see {self._config.shared_dir}, where the driver has just "
                    "created a folder; set it to a folder that all nodes share, or to null"
                )
        if mismatches:
            raise ConfigError(
                "package versions differ between the cluster's nodes; install the same on all:\n  "
                + "\n  ".join(mismatches)
            )
        log.info("cluster nodes (%d): %s", len(self._node_names), ", ".join(sorted(self._node_names.values())))


def _check_reachable(address: str | None) -> None:
    """Raise RunError if the connection is refused: Ray would retry forever."""
    host, _, port = (address or "auto").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise RunError(f"no Ray cluster at {address}: {error}; ray start --head prints the address") from None


def _results_folder(shared_dir: Path | None) -> Path | None:
    """Create a folder on shared storage where it is configured. Raises ConfigError."""
    if shared_dir is None:
        return None
    try:
        return Path(tempfile.mkdtemp(prefix="results-", dir=shared_dir.absolute()))
    except OSError as error:
        raise ConfigError(
            f"machine.shared_dir: no folder can be created in {shared_dir}: {explain_cause(error)}"
        ) from None
