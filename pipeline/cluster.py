"""Jobs on a Ray cluster: `--executor ray`. Ray schedules; results come back as bytes, so no storage need be shared."""

import logging
import platform
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import pipeline
from pipeline.competition.images import ImageStore
from pipeline.config import MachineConfig
from pipeline.errors import ConfigError, RunError, UserError
from pipeline.jobs import Asked, FoldJob, predict_slice
from pipeline.learning.device import set_up_machine
from pipeline.learning.flops import pass_flop
from pipeline.learning.predict import View
from pipeline.learning.train import EpochRecord
from pipeline.predictions import Predictions
from pipeline.progress import Bar, LiveView, live_view, log
from pipeline.runs.environment import package_versions
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.folder import FoldTable

MAX_TRIES = 3  # of a job whose node or process was lost
Files = dict[str, bytes]


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
            try:
                ray.init(address=self._address, **settings)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                place = f"at {self._address}" if self._address else "can be started here"
                raise RunError(f"no Ray cluster {place}: {_first_line(error)}") from None
        wants_gpu = self._config.device == "cuda" or (
            self._config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
        )
        if wants_gpu:
            self._resources["num_gpus"] = self._config.gpu_share
        self._look_at_nodes()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the images go."""
        self._kept.clear()

    def train(self, jobs: Sequence[FoldJob], store: ImageStore, table: FoldTable, view: LiveView) -> None:
        """Train all folds at once, as many as there is room for; each epoch's checkpoint comes back here."""
        images, kept_table = self._put(store), ray.put(table)
        remote = ray.remote(_train).options(num_returns="streaming", max_retries=0, **self._resources)

        def start(job: FoldJob) -> Any:
            return remote.remote(job, job.folder.export(), images, store.ids, kept_table, self._config)

        running = Running(start, jobs)
        with ExitStack() as bars:
            shown: dict[str, Bar] = {}
            for job, (node, record, files) in running.results():
                work, epochs = job.training_work(table), job.member.train.epochs
                job.folder.take(files)
                if record is None:
                    job.log_score(job.folder.out_of_fold(), table)
                    continue
                if str(job) not in shown:
                    shown[str(job)] = bars.enter_context(
                        view.bar(f"{job} on {node}", epochs=epochs, work=work, share_before=(record.epoch - 1) / epochs)
                    )
                bar = shown[str(job)]
                bar.say(
                    f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}, {record.images_per_second:,.0f} images/s"
                )
                num_images = int((table.folds != job.fold).sum())
                bar(record.epoch * num_images, epochs * num_images)
                job.log_epoch(record, view, f" on {node}")

    def predict(self, jobs: Sequence[tuple[FoldJob, Asked]], store: ImageStore, view: LiveView) -> None:
        """Ask about all slices at once, as many as there is room for."""
        images = self._put(store)
        remote = ray.remote(_predict).options(max_retries=0, **self._resources)
        slices = {
            f"{job} {asked.name} slice {number}": (job, asked, number, rows)
            for job, asked in jobs
            for number, rows in job.missing_slices(store, asked.rows, asked.name).items()
        }
        weights = {str(job): ray.put(job.folder.export(("weights.safetensors",))) for job, *_ in slices.values()}

        def start(name: str) -> Any:
            job, asked, _, rows = slices[name]
            return remote.remote(job, weights[str(job)], images, store.ids, rows, asked.views, self._config)

        total = sum(len(rows) for *_, rows in slices.values())
        work = sum(len(rows) * pass_flop(job.member) * len(asked.views) for job, asked, _, rows in slices.values())
        done = 0
        with view.bar(f"test images on {len(self._nodes)} nodes", work=work) as bar:
            for name, (node, found) in Running(start, list(slices)).results():
                job, asked, number, rows = slices[name]
                job.folder.save_test(asked.name, number, found)
                done += len(rows)
                bar(done, total)
                log.info("%s on %s: %s of %s test images predicted", job, node, f"{done:,}", f"{total:,}")

    def _put(self, store: ImageStore) -> Any:
        """Hand the images to Ray once; each node that needs them fetches them once."""
        if id(store) not in self._kept:
            self._kept[id(store)] = ray.put(np.asarray(store.images))
        return self._kept[id(store)]

    def _look_at_nodes(self) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]
        if max((node["Resources"].get("CPU", 0) for node in alive), default=0) < self._resources["num_cpus"]:
            raise ConfigError(
                f"a job takes {self._resources['num_cpus']:.0f} threads, and no node has so many cores; set "
                "machine.num_threads to what a node has"
            )
        ask, asked = ray.remote(_describe_node), {}
        for node in alive:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeID"]] = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()
        here, different = _versions(), []
        for node, answer in asked.items():
            try:
                self._nodes[node], found = ray.get(answer, timeout=120)
            except RayError as error:
                raise RunError(f"node {node[:8]} of the cluster does not answer: {_first_line(error)}") from None
            different += [
                f"{self._nodes[node]} has {name} {found[name]}, here it is {here[name]}"
                for name in here
                if found[name] != here[name]
            ]
        if different:
            raise ConfigError(
                "the cluster's nodes are not alike; install the same on all:\n  " + "\n  ".join(different)
            )
        log.info("%d nodes: %s", len(self._nodes), ", ".join(sorted(self._nodes.values())))


class Running:
    """Jobs in the cluster. One whose node or process is lost is started again; an error of ours is raised here."""

    def __init__(self, start: Any, jobs: Sequence[Any]) -> None:
        self._start, self._tries = start, Counter[str]()
        self._running = {start(job): job for job in jobs}

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Yield each job with what came from it, as it comes; a job that streams comes several times."""
        try:
            while self._running:
                for ready in self._wait():
                    job = self._running[ready]
                    try:
                        found = self._next(ready)
                    except StopIteration:
                        del self._running[ready]
                    except RayTaskError as error:
                        del self._running[ready]
                        self._give_up(job, error.cause)
                    except RayError as error:
                        del self._running[ready]
                        self._again(job, error)
                    else:
                        yield job, found
        finally:
            for left in self._running:
                ray.cancel(left, force=True)

    def _wait(self) -> list[Any]:
        """Wait for one, and take with it all that are ready by then."""
        waiting = list(self._running)
        ray.wait(waiting, num_returns=1)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return ready

    def _next(self, ready: Any) -> Any:
        if isinstance(ready, ray.ObjectRef):
            found = ray.get(ready)
            del self._running[ready]
            return found
        return ray.get(next(ready))

    def _again(self, job: Any, error: RayError) -> None:
        self._tries[str(job)] += 1
        reason = f"{type(error).__name__}: {_first_line(error)}"
        if self._tries[str(job)] >= MAX_TRIES:
            raise RunError(
                f"{job} was lost {MAX_TRIES} times, the last time by {reason}; what was finished is saved, the same "
                "command goes on from there"
            )
        log.warning("%s was lost (%s); it goes on elsewhere", job, reason)
        self._running[self._start(job)] = job

    def _give_up(self, job: Any, cause: Exception) -> None:
        if isinstance(cause, UserError):
            raise type(cause)(f"{job}: {cause}") from None
        raise cause


def _check_reachable(address: str | None) -> None:
    """Raise RunError if nobody listens: Ray itself would try for ever."""
    host, _, port = (address or "auto").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise RunError(f"no Ray cluster at {address}: {error}; ray start --head tells the address") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | package_versions("safetensors", "ray")


def _node() -> str:
    """Return a name that tells nodes apart, also two on one machine."""
    return f"{socket.gethostname()}:{ray.get_runtime_context().get_node_id()[:4]}"


def _describe_node() -> tuple[str, dict[str, str]]:
    return _node(), _versions()


def _train(
    job: FoldJob,
    files: Files,
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    table: FoldTable,
    config: MachineConfig,
) -> Iterator[tuple[str, EpochRecord | None, Files]]:
    """On a node: train a fold in a folder of its own; yield the checkpoint of each epoch, then the finished files."""
    with tempfile.TemporaryDirectory() as place, live_view() as view:
        job = replace(job, folder=FoldFolder(Path(place)))
        job.folder.take(files)
        for record in job.train(set_up_machine(config), ImageStore(ids, images, "", Path(place)), table, view):
            yield _node(), record, job.folder.export()
        yield _node(), None, job.folder.export()


def _predict(
    job: FoldJob,
    files: Files,
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    rows: NDArray[np.int64],
    views: Sequence[View],
    config: MachineConfig,
) -> tuple[str, Predictions]:
    """On a node: ask a trained fold about a slice of the test images."""
    machine = set_up_machine(config)
    with tempfile.TemporaryDirectory() as place:
        job = replace(job, folder=FoldFolder(Path(place)))
        job.folder.take(files)
        net = job.trained_net(machine)
    return _node(), predict_slice(net, ids[rows], images[rows], views, machine)
