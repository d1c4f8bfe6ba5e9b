"""submissions/<search>/: the files of a hyperparameter search, which several processes may share."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from pipeline.config import Config, Json
from pipeline.config_files import differences
from pipeline.error_messages import explain_cause
from pipeline.errors import ConfigError, RunError
from pipeline.files import write_json, write_text
from pipeline.ledger import SUBMISSIONS
from pipeline.locks import file_lock
from pipeline.runs.run_folder import SEARCH, RunFolder, check_run_name


class SearchFolder:
    """The files of one search; each trial has a folder in `trials`."""

    def __init__(self, name: str) -> None:
        """Raises RunError for a name that is not a safe folder name, or that of a run."""
        check_run_name(name)
        self.name = name
        self.path = SUBMISSIONS / name
        self.run = RunFolder(SUBMISSIONS, name)
        """Only for the folds."""
        if self.run.exists:
            raise RunError(f"{self.path} is a run, not a search; choose another --run")
        self.study = self.path / "study.db"
        self.best = self.path / "best.yaml"
        self.report = self.path / "report.html"
        self._trials = self.path / "trials"
        self._settings = self.path / SEARCH

    def trial(self, number: int) -> RunFolder:
        """Return the folder of a trial, from 0, in which its folds are trained."""
        return RunFolder(self._trials, str(number))

    def trial_lock(self, number: int) -> AbstractContextManager[None]:
        """Hold the lock of the process that runs a trial. Raises LockedError if another one holds it."""
        return file_lock(self._trials / str(number) / ".lock")

    def save_trial_config(self, number: int, config: Config) -> None:
        """Save the config of a trial, for the user."""
        write_text(self._trials / str(number) / "config.yaml", config.to_yaml())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of what only one process may do at a time; it takes no longer than a moment."""
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.path / ".lock", wait_for="it starts a trial of the same search"))
            except OSError as error:
                where = self.path if error.filename is None else error.filename
                raise RunError(f"{where} can't be written: {explain_cause(error)}") from None
            yield

    def load_settings(self) -> Json:
        """Read what the search was started with. Raises RunError."""
        try:
            settings: Json = json.loads(self._settings.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self._settings} can't be read ({error}); choose another --run") from None
        return settings

    def create_or_verify(self, settings: Json) -> None:
        """Save the settings of a new search, or compare them with those that it was started with.

        Raises ConfigError with the differences, and RunError if files are missing or corrupted.
        """
        if not self.study.exists() and self._trials.exists():
            raise RunError(f"{self.study} is missing; restore it, or choose another --run")
        if not self._settings.exists():
            write_json(self._settings, settings)
            return
        # As the file has it: tuples are lists.
        changes = differences(self.load_settings(), json.loads(json.dumps(settings)))
        if changes:
            raise ConfigError(
                f"the search {self.name} was started with other settings; choose another --run, or revert these "
                "changes:\n  " + "\n  ".join(changes)
            )


def searches_with_report() -> list[SearchFolder]:
    """Return all searches that have a report, by name."""
    folders = sorted(path.parent for path in SUBMISSIONS.glob(f"*/{SEARCH}"))
    searches = [SearchFolder(folder.name) for folder in folders]
    return [search for search in searches if search.report.exists()]
