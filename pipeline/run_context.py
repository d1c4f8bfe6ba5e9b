"""RunContext: config, run folder, source, images, labels and folds of a run, opened once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.cores import available_cores
from pipeline.data.image_cache import cache_folder
from pipeline.data.image_store import ImageStore
from pipeline.data.labels import parse_labels
from pipeline.data.prepare import prepare
from pipeline.data.source import Source, find_source
from pipeline.demo.dataset import SOLUTION_CSV, demo_dataset
from pipeline.errors import InputError
from pipeline.executors.arrangement import Slots, arrange, find_slots
from pipeline.executors.factory import ExecutorOptions
from pipeline.executors.fold_job import FoldJob
from pipeline.executors.run_jobs import fold_jobs, refit_jobs, test_jobs
from pipeline.executors.worker_start import start_imports
from pipeline.learning.device import Machine, set_up_machine
from pipeline.learning.duplicates import count_duplicates, find_groups
from pipeline.learning.folds import make_folds
from pipeline.learning.seeding import derive_seed
from pipeline.learning.trial import try_member
from pipeline.learning.weights import weights_checksum
from pipeline.progress import log
from pipeline.results import Arrangement
from pipeline.run_config import find_config
from pipeline.runs.environment import describe_environment
from pipeline.runs.fold_table import FoldTable
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.trackers.open_trackers import require_installed
from pipeline.task import Labels, Split, Task

LOCAL = ExecutorOptions()


@dataclass(frozen=True)
class RunContext:
    """What a run needs: opened once, handed down to every step."""

    task: Task
    config: Config
    config_name: str
    """Name of the config in the ledger."""
    run: RunFolder
    source: Source
    cache_dir: Path
    executor: ExecutorOptions
    only_fold: int | None = None
    demo_test_labels: Labels | None = None
    """Labels of the scored test images of the synthetic dataset; None for real data."""

    @cached_property
    def machine(self) -> Machine:
        """Device, threads and precision."""
        return _machine(self.config, self.executor)

    @cached_property
    def stores(self) -> dict[Split, ImageStore]:
        """The decoded images of both splits."""
        return prepare(self.source, self.cache_dir)

    @cached_property
    def labels(self) -> Labels:
        """The training labels."""
        return self.source.labels()

    @cached_property
    def test_labels(self) -> Labels | None:
        """The labels of test images, where they are known."""
        return self.demo_test_labels or self.source.test_labels()

    @cached_property
    def fold_table(self) -> FoldTable:
        """The folds of the training images: loaded, or made and not yet saved."""
        return self.run.folds() if self.run.has_folds else _make_folds(self)

    @cached_property
    def slots(self) -> Slots:
        """How many jobs run side by side on this machine; a cluster has slots of its own."""
        if self.executor.executor == "ray":
            return Slots((str(self.machine.device),), available_cores())
        jobs = self.jobs
        return find_slots(
            self.config.machine,
            self.machine,
            job_memory=max(job.training_memory(self.fold_table) for job in jobs),
            total_flops=sum(job.training_flops(self.fold_table) for job in jobs),
        )

    def arrange(self, jobs: Sequence[FoldJob]) -> Arrangement:
        """Return with how many threads some jobs train, and the test images are predicted; the run remembers it."""
        if self.executor.executor == "ray":
            return Arrangement()
        recorded = self.run.arrangement([str(job) for job in self.jobs])
        alone = [str(job) for job in jobs if job.member.head == "linear"]
        arrangement = arrange([str(job) for job in jobs], recorded, self.config.machine, self.slots, alone=alone)
        self.run.save_arrangement(arrangement)
        return arrangement

    def input_checksums(self) -> dict[str, str]:
        """Return the checksums of images, labels and files of pretrained weights."""
        checksums = {f"{split}_images": store.checksum for split, store in self.stores.items()}
        return checksums | {"train_labels": self.labels.checksum()} | self._weights_checksums()

    def _weights_checksums(self) -> dict[str, str]:
        """Return those of the files of weights; the recorded one of a file that is gone, as after the training."""
        paths = {name: member.model.weights for name, member in self.config.members.items()}
        recorded = self.run.load_json("input.json") if self.run.exists else {}
        return {
            key: recorded[key] if key in recorded and not path.exists() else weights_checksum(path)
            for key, path in ((f"{name}_weights", path) for name, path in paths.items() if path is not None)
        }

    @property
    def jobs(self) -> list[FoldJob]:
        """All that is trained: the folds of every member, then the refits."""
        return [*self.fold_jobs(), *self.refit_jobs()]

    @property
    def test_jobs(self) -> list[FoldJob]:
        """The models that predict the test images."""
        return test_jobs(self.run, self.config, self.task)

    def fold_jobs(self) -> list[FoldJob]:
        """Return a job for every fold that is trained, of every member."""
        return fold_jobs(self.run, self.config, self.task)

    def refit_jobs(self) -> list[FoldJob]:
        """Return a job for every refit of every member."""
        return refit_jobs(self.run, self.config, self.task)


def open_context(
    task: Task,
    *,
    config_path: Path | None = None,
    input_dir: Path,
    run_name: str | None = None,
    overrides: Iterable[str] = (),
    executor: ExecutorOptions = LOCAL,
    only_fold: int | None = None,
    will_train: bool = True,
) -> RunContext:
    """Check a run's options and open its files; an existing run keeps its config unless another one is given.

    Raises ConfigError, RunError or InputError before anything is written.
    """
    run, config, config_name = find_config(config_path, run_name, overrides)
    if only_fold is not None and only_fold not in config.folds.trained:
        expected = ", ".join(map(str, config.folds.trained))
        raise InputError(f"--fold {only_fold}: expected one of the folds that the config trains: {expected}")
    run.check_config(config)
    context = context_of(task, run, config, config_name, input_dir=input_dir, executor=executor, will_train=will_train)
    return replace(context, only_fold=only_fold)


def context_of(
    task: Task, run: RunFolder, config: Config, config_name: str, *, input_dir: Path, executor: ExecutorOptions,
    will_train: bool = True,
) -> RunContext:  # fmt: skip
    """Open the files of a run with a config, which is tried on random images if it will be trained.

    Raises ConfigError or InputError before anything is written.
    """
    machine = _machine(config, executor)
    if executor.executor == "local" and machine.device.type == "cpu" and config.machine.jobs != 1:
        start_imports()
    if will_train:
        _check_members(config, task, machine)
    return RunContext(
        task=task,
        config=config,
        config_name=config_name,
        run=run,
        source=find_source(input_dir, task),
        cache_dir=cache_folder(config.images.cache_dir, input_dir),
        executor=executor,
    )


def open_demo(
    task: Task, *, config_path: Path, input_dir: Path, run_name: str | None, overrides: Iterable[str],
    executor: ExecutorOptions,
) -> RunContext:  # fmt: skip
    """Open a run on the synthetic dataset, which the first call makes; the labels of its test images are known."""
    folder = demo_dataset(input_dir, task)
    context = open_context(
        task, config_path=config_path, input_dir=folder, run_name=run_name, overrides=overrides, executor=executor
    )
    solution = folder / SOLUTION_CSV
    try:
        labels = parse_labels(solution.read_bytes(), str(solution), task)
    except InputError as error:
        raise InputError(f"{error}; delete {folder}, the demo makes it again") from None
    return replace(context, demo_test_labels=labels)


def prepare_run(context: RunContext) -> None:
    """Decode the images; create the run with its folds, or verify that it was created with the same config and input.

    An error of the input leaves no run behind: the same command works with the completed input.
    """
    machine = context.machine
    with context.run.timing("prepare"):
        checksums = context.input_checksums()
    context.source.release()
    folds = context.fold_table
    environment = describe_environment(machine.device.type, machine.autocast)
    pretrained = [name for name, member in context.config.members.items() if member.model.is_pretrained]
    origin = {"config": context.config_name} | ({"pretrained": pretrained} if pretrained else {})
    context.run.create_or_verify(context.config, checksums, origin | environment)
    if not context.run.has_folds:
        context.run.save_folds(folds)


def _machine(config: Config, executor: ExecutorOptions) -> Machine:
    return set_up_machine(config.machine, is_driver=executor.executor == "ray")


def _check_members(config: Config, task: Task, machine: Machine) -> None:
    """Raise ConfigError for what would fail in training or prediction, before the first image is decoded."""
    require_installed(config.log.trackers)
    for name, member in config.members.items():
        try_member(name, member, task, machine)


def _make_folds(context: RunContext) -> FoldTable:
    """Split the training images into stratified folds that keep near-duplicates together."""
    config, labels = context.config.folds, context.labels
    images = context.stores["train"].images
    groups = find_groups(images) if config.group_duplicates else np.arange(len(labels.ids))
    folds = make_folds(
        labels.labels,
        groups,
        num_folds=config.num_folds,
        seed=derive_seed(context.config.seed, "folds"),
        class_names=context.task.class_names,
    )
    num_groups, num_images = count_duplicates(groups)
    log.info("%d folds, %d near-duplicates in %d groups", config.num_folds, num_images, num_groups)
    return FoldTable(labels.ids, labels.labels, folds, groups)
