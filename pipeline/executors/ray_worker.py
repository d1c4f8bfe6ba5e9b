"""The functions that run on the nodes of a Ray cluster: train a fold or predict a slice, and return the files."""

import platform
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from pipeline.config import MachineConfig
from pipeline.data.image_store import ImageStore
from pipeline.executors.fold_job import FoldJob, PredictRequest, predict_slice
from pipeline.files import write_bytes
from pipeline.learning.device import set_up_machine
from pipeline.learning.train_state import EpochRecord
from pipeline.predictions import Predictions
from pipeline.progress import progress_display
from pipeline.runs.environment import package_versions
from pipeline.runs.fold_folder import Files, FoldFolder
from pipeline.runs.fold_table import FoldTable
from pipeline.task import Ids


@dataclass(frozen=True)
class ResultFiles:
    """Result files of a node: as bytes in the message, or in a folder of shared storage."""

    content: Files | Path

    def read(self) -> Files:
        """Return the files, and remove them from shared storage."""
        if not isinstance(self.content, Path):
            return self.content
        paths = [path for path in self.content.rglob("*") if path.is_file()]
        files = {str(path.relative_to(self.content)): path.read_bytes() for path in paths}
        shutil.rmtree(self.content)
        return files


def pack_results(files: Files, shared_dir: Path | None) -> ResultFiles:
    """Put files into a message, or into a new folder of shared storage where it is configured."""
    if shared_dir is None:
        return ResultFiles(files)
    # A folder of its own: a task that was believed lost may still write while its retry runs elsewhere.
    folder = shared_dir / uuid.uuid4().hex
    for name, data in files.items():
        write_bytes(folder / name, data)
    return ResultFiles(folder)


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes."""
    return {"python": platform.python_version()} | package_versions("safetensors", "ray")


def node_name() -> str:
    """Return a name that is unique per node, also for two nodes on one machine."""
    return f"{socket.gethostname()}:{ray.get_runtime_context().get_node_id()[:4]}"


def describe_node(shared_dir: Path | None) -> tuple[str, dict[str, str], bool]:
    """Return the node's name, its versions, and whether it sees the folder of shared storage."""
    return node_name(), versions(), shared_dir is None or shared_dir.is_dir()


def train(
    job: FoldJob,
    files: Files,
    images: NDArray[np.uint8],
    ids: Ids,
    table: FoldTable,
    config: MachineConfig,
    shared_dir: Path | None,
) -> Iterator[tuple[str, EpochRecord | None, ResultFiles]]:
    """Train a fold in a temporary folder; yield the checkpoint of each epoch, then the finished files."""
    with _local_job(job, files) as local, progress_display() as display:
        store = ImageStore(ids, images, "", local.folder.path)
        with closing(local.train(set_up_machine(config), store, table, display)) as results:
            for result in results:
                record = None if isinstance(result, Predictions) else result
                yield node_name(), record, pack_results(local.folder.export_files(), shared_dir)


def predict(
    job: FoldJob,
    files: Files,
    images: NDArray[np.uint8],
    ids: Ids,
    request: PredictRequest,
    index: int,
    config: MachineConfig,
    shared_dir: Path | None,
) -> tuple[str, ResultFiles]:
    """Predict a slice of the test images, the rows of the request."""
    machine = set_up_machine(config)
    with _local_job(job, files) as local:
        model, spec = local.load_for_inference(machine)
        store = ImageStore(ids, images, "", local.folder.path)
        predictions = predict_slice(model, spec, store, request.rows, request.views, machine)
        local.folder.save_test_slice(request.stage, index, predictions)
        return node_name(), pack_results(local.folder.export_test_slice(request.stage, index), shared_dir)


@contextmanager
def _local_job(job: FoldJob, files: Files) -> Iterator[FoldJob]:
    """Give the job a temporary folder on this node with some files."""
    with tempfile.TemporaryDirectory() as folder:
        local = replace(job, folder=FoldFolder(Path(folder)))
        local.folder.import_files(files)
        yield local
