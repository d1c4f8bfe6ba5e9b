"""A run on Kaggle: pushed once, followed, resumed after each time limit, fetched."""

import re
import secrets
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config import Config, LogConfig
from pipeline.config_files import build_config, differences, parse_yaml
from pipeline.errors import ConfigError, KaggleError, RunError
from pipeline.locks import file_lock
from pipeline.progress import log
from pipeline.remote.follow import follow, last_lines
from pipeline.remote.kernel_source import Settings, make_source, read_settings
from pipeline.remote.output import fetch_manifest, fetch_run, remote_folder, was_fetched
from pipeline.run_config import RunConfig
from pipeline.runs.environment import current_commit
from pipeline.runs.run_folder import RunFolder
from pipeline.submission.kaggle_kernels import Kernel, KernelClient, Status
from pipeline.task import Task

DEFAULT_MINUTES = 690.0
"""Kaggle ends a kernel after 12 hours, and then keeps no output (kaggle.com/docs/notebooks)."""
MAX_NAME = 50  # characters of a kernel's title
NO_ACCELERATOR = "none"
FILE_TRACKERS = ("csv", "tensorboard")


@dataclass(frozen=True)
class RemoteOptions:
    """How a run is pushed."""

    accelerator: str = "NvidiaTeslaT4"
    """Kaggle's name of it, or none."""
    minutes: float = DEFAULT_MINUTES
    """After them a session stops itself, and another one resumes."""
    internet: bool = True
    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    wait: bool = True
    again: bool = False
    """Push the last session again if its kernel failed or was cancelled."""


class _Session(NamedTuple):
    name: str
    """Of its kernel."""
    settings: Settings


def run_remote(
    task: Task, wanted: RunConfig, options: RemoteOptions, client: KernelClient, *, is_config_given: bool
) -> RunFolder | None:
    """Run a job on Kaggle and return its run; None if it is not complete, and is not waited for.

    At any time there is one kernel of a run, found by the run's name; so the same command resumes after every
    interruption. Raises KaggleError, RunError or ConfigError.
    """
    run = wanted.run
    _require_no_local_run(run)
    if was_fetched(run):
        run.check_config(wanted.config)
        log.info("%s was fetched from Kaggle before", run.path)
        return run
    config = _portable(wanted.config)
    session = _last_session(client, task, run.name)
    if session is None:
        session = _push(client, task, wanted._replace(config=config), 1, options)
    elif is_config_given:
        _check_config(session, config)
    again = options.again
    while True:
        status = client.kernel_status(session.name)
        if not status.is_final:
            if not options.wait:
                log.info(
                    "kernel %s: %s; the same command without --no-wait follows it",
                    client.url(session.name),
                    status.status,
                )
                return None
            status = _follow(client, session.name)
        number = session.settings.session
        if status.status == "complete":
            manifest = fetch_manifest(client, session.name, session.settings, run)
            if manifest.is_complete:
                fetch_run(client, session.name, manifest, run)
                return run
            log.info("session %d reached its time limit of %g minutes", number, session.settings.minutes)
            number += 1
        elif not again:
            raise KaggleError(_why_failed(client, session.name, status))
        again = False
        pushed = build_config(parse_yaml(session.settings.config, session.name), session.name)
        session = _push(client, task, RunConfig(run, pushed, session.settings.config_name), number, options)


def fetch_remote(task: Task, run: RunFolder, client: KernelClient) -> RunFolder:
    """Fetch a run whose kernel has ended. Raises KaggleError or RunError if there is none."""
    _require_no_local_run(run)
    if was_fetched(run):
        return run
    session = _last_session(client, task, run.name)
    if session is None:
        raise RunError(f"Kaggle has no kernel of the run {run.name}; python run.py remote --run {run.name} starts one")
    status = client.kernel_status(session.name)
    if status.has_failed:
        raise KaggleError(_why_failed(client, session.name, status))
    manifest = fetch_manifest(client, session.name, session.settings, run) if status.is_final else None
    if manifest is None or not manifest.is_complete:
        found = "has reached its time limit" if manifest else f"is {status.status}"
        raise RunError(f"{client.url(session.name)} {found}; without --fetch the command waits for the run's end")
    fetch_run(client, session.name, manifest, run)
    return run


def kernel_name(task: Task, run: str, session: int) -> str:
    """Return the name of a session's kernel: lower case, digits and dashes, different for different runs."""
    prefix, slug = f"{task.competition}-run-", re.sub("[^a-z0-9]+", "-", run.lower()).strip("-")
    suffix = "" if session == 1 else f"-session-{session}"
    room = MAX_NAME - len(prefix) - len("-session-99")
    if slug != run or len(slug) > room or "-session-" in slug:
        slug = f"{slug[: room - 9].rstrip('-')}-{zlib.crc32(run.encode()):08x}"
    return f"{prefix}{slug}{suffix}"


def _require_no_local_run(run: RunFolder) -> None:
    if run.path.exists() and not was_fetched(run):
        raise RunError(f"{run.path} exists and was not fetched from Kaggle; choose another --run")


def _portable(config: Config) -> Config:
    """Return a config for another machine. Raises ConfigError for a file of weights on this one."""
    for name, member in config.members.items():
        weights = member.model.weights
        if weights is not None and not weights.as_posix().startswith("/kaggle/input/"):
            raise ConfigError(
                f"members.{name}.model.weights is {weights}, a file of this machine; save it in a dataset on Kaggle, "
                "name that with --dataset OWNER/NAME, and set the weights to /kaggle/input/NAME/FILE"
            )
    trackers = tuple(name for name in config.log.trackers if name in FILE_TRACKERS)
    if trackers != config.log.trackers:
        log.warning(
            "log.trackers in the kernel: %s, as it has no credentials for others", ", ".join(trackers) or "none"
        )
    changes = {
        "images": config.images.model_copy(update={"cache_dir": None}),
        "machine": config.machine.model_copy(update={"shared_dir": None}),
        "log": LogConfig(trackers=trackers),
    }
    return config.model_copy(update=changes)


def _check_config(session: _Session, config: Config) -> None:
    """Raise ConfigError with the differences if the run was pushed with another config."""
    pushed = build_config(parse_yaml(session.settings.config, session.name), session.name)
    changes = differences(pushed.experiment(), config.experiment())
    if changes:
        raise ConfigError(
            f"the run {session.settings.run} was pushed with another config; choose another --run, or revert these "
            "changes:\n  " + "\n  ".join(changes)
        )


def _last_session(client: KernelClient, task: Task, run: str) -> _Session | None:
    """Return the last session of a run that was pushed. Raises KaggleError if a kernel of its name is another's."""
    last, number = None, 1
    while True:
        session = _find(client, task, run, number)
        if session is None:
            return last
        last, number = session, number + 1


def _find(client: KernelClient, task: Task, run: str, number: int) -> _Session | None:
    name = kernel_name(task, run, number)
    source = client.find_kernel(name)
    if source is None:
        return None
    settings = read_settings(source)
    if settings is None or (settings.run, settings.session) != (run, number):
        raise KaggleError(
            f"{client.url(name)} is not of this project's run {run}, or of another version; choose another --run"
        )
    return _Session(name, settings)


def _push(client: KernelClient, task: Task, wanted: RunConfig, number: int, options: RemoteOptions) -> _Session:
    """Start a session, unless another process of this machine has done it meanwhile; return it."""
    run = wanted.run
    name = kernel_name(task, run.name, number)
    accelerator = "" if options.accelerator == NO_ACCELERATOR else options.accelerator
    with file_lock(remote_folder(run) / f"{run.name}.push.lock", wait_for=f"it pushes {name}"):
        found = _find(client, task, run.name, number)
        if found is not None and not client.kernel_status(name).has_failed:
            return found
        quota = client.quota() if accelerator else None
        if quota is not None:
            log.info("GPU quota: %s", quota)
            if not quota.left:
                raise KaggleError(f"no GPU quota is left ({quota}); wait for the reset, or use --accelerator none")
        push = secrets.token_hex(8)
        settings = Settings(
            run=run.name,
            session=number,
            push=push,
            config=wanted.config.to_yaml(),
            config_name=wanted.name,
            accelerator=accelerator,
            minutes=options.minutes,
            commit=current_commit(),
        )
        kernel = Kernel(
            name,
            make_source(settings),
            accelerator,
            options.internet,
            (kernel_name(task, run.name, number - 1),) if number > 1 else (),
            options.datasets,
            options.models,
        )
        client.push_kernel(kernel, push)
        log.info("pushed %s", client.url(name))
    return _Session(name, settings)


def _follow(client: KernelClient, name: str) -> Status:
    try:
        return follow(client, name)
    except KeyboardInterrupt:
        log.warning("the kernel runs on; to stop it, open %s and choose Cancel Run", client.url(name))
        raise


def _why_failed(client: KernelClient, name: str, status: Status) -> str:
    reason = ": ".join(text for text in (status.message, last_lines(client, name)) if text)
    verb = "failed" if status.status == "error" else "was cancelled"
    return f"the kernel {client.url(name)} {verb} ({reason or 'no reason given'}); --again pushes it once more"
