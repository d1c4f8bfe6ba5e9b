"""What runs on a node of a Ray cluster: a fold is trained, or a slice of test images predicted; the results go back."""

import platform
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from pipeline.data.image_cache import ImageStore
from pipeline.config import MachineConfig
from pipeline.files import write_bytes
from pipeline.executors.fold_job import PredictRequest, FoldJob, predict_slice
from pipeline.learning.device import set_up_machine
from pipeline.learning.train import EpochRecord
from pipeline.progress import progress_display
from pipeline.runs.environment import package_versions
from pipeline.runs.fold_folder import FoldFolder
from pipeline.runs.run_folder import FoldTable

Files = dict[str, bytes]


@dataclass(frozen=True)
class ResultFiles:
    """Files on their way back from a node: as bytes in the message, or in a folder of shared storage."""

    content: Files | Path

    def open(self) -> Files:
        """Return the files; what stood on shared storage is removed."""
        if not isinstance(self.content, Path):
            return self.content
        paths = [path for path in self.content.rglob("*") if path.is_file()]
        files = {str(path.relative_to(self.content)): path.read_bytes() for path in paths}
        shutil.rmtree(self.content)
        return files


def pack(files: Files, shared: Path | None) -> ResultFiles:
    """Put files into a message, or into a new folder on shared storage, if there is some."""
    if shared is None:
        return ResultFiles(files)
    # A folder of its own: a job that was thought lost may still write when it runs a second time elsewhere.
    place = shared / uuid.uuid4().hex
    for name, data in files.items():
        write_bytes(place / name, data)
    return ResultFiles(place)


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all nodes."""
    return {"python": platform.python_version()} | package_versions("safetensors", "ray")


def node_name() -> str:
    """Return a name that tells nodes apart, also two on one machine."""
    return f"{socket.gethostname()}:{ray.get_runtime_context().get_node_id()[:4]}"


def describe_node(shared: Path | None) -> tuple[str, dict[str, str], bool]:
    """Return the node's name, its versions, and whether it sees a folder of shared storage."""
    return node_name(), versions(), shared is None or shared.is_dir()


def train(
    job: FoldJob,
    files: Files,
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    table: FoldTable,
    config: MachineConfig,
    shared: Path | None,
) -> Iterator[tuple[str, EpochRecord | None, ResultFiles]]:
    """Train a fold in a folder of its own; yield the checkpoint of each epoch, then the finished files."""
    with _own_folder(job, files) as own, progress_display() as view:
        for record in own.train(set_up_machine(config), ImageStore(ids, images, "", own.folder.path), table, view):
            yield node_name(), record, pack(own.folder.export(), shared)
        yield node_name(), None, pack(own.folder.export(), shared)


def predict(
    job: FoldJob,
    files: Files,
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    asked: PredictRequest,
    number: int,
    config: MachineConfig,
    shared: Path | None,
) -> tuple[str, ResultFiles]:
    """ModelPass a trained fold about a slice of the test images, the rows of `asked`."""
    machine, rows = set_up_machine(config), asked.rows
    with _own_folder(job, files) as own:
        found = predict_slice(own.trained_net(machine), ids[rows], images[rows], asked.views, machine)
        own.folder.save_test(asked.name, number, found)
        return node_name(), pack(own.folder.export_test(asked.name, number), shared)


@contextmanager
def _own_folder(job: FoldJob, files: Files) -> Iterator[FoldJob]:
    """Give the job a folder on this node that holds some files."""
    with tempfile.TemporaryDirectory() as place:
        own = replace(job, folder=FoldFolder(Path(place)))
        own.folder.take(files)
        yield own
