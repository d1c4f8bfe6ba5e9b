"""The trials of a search in SQLite, by Optuna; several processes may share them."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import Json
from pipeline.error_messages import on_one_line
from pipeline.errors import RunError
from pipeline.learning.seeding import derive_seed
from pipeline.locks import LockedError
from pipeline.runs.search_folder import SearchFolder
from pipeline.tuning.results import Objective, State, TrialResult, TrialScores
from pipeline.tuning.space import SearchSpace, parse_value

PrunerName = Literal["median", "hyperband", "none"]
SECONDS_LOCKED = 60  # that a process waits while another one writes
STARTUP_TRIALS = 5  # that the median pruner needs before it prunes
MIN_FOR_IMPORTANCE = 4  # complete trials
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


@contextmanager
def study_errors(folder: SearchFolder) -> Iterator[None]:
    """Convert the errors of the database into RunError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(
            f"{folder.study} can't be read or written ({on_one_line(error)}); fix the cause and rerun the same "
            "command, or choose another --run"
        ) from None


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this process runs while it holds its lock."""

    trial: Trial
    values: Json
    """By config key."""
    lock: ExitStack

    @property
    def number(self) -> int:
        """From 0."""
        return self.trial.number


@dataclass
class SearchStudy:
    """The trials of a search."""

    folder: SearchFolder
    space: SearchSpace
    objective: Objective
    pruner: PrunerName
    seed: int
    num_epochs: int
    """Of a trial with the values of the config; the median pruner spares the first quarter of them."""
    config_values: Json
    """The config's own values that are in the space: those of the first trial."""
    _study: optuna.Study = field(init=False)
    _thread_lock: threading.Lock = field(default_factory=threading.Lock)
    _claimed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Open the study, or create it; the caller holds the lock of the search."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            storage=RDBStorage(
                f"sqlite:///{self.folder.study.as_posix()}",
                engine_kwargs={"connect_args": {"timeout": SECONDS_LOCKED}},
            ),
            study_name="search",
            direction="maximize" if self.objective == "accuracy" else "minimize",
            pruner=_make_pruner(self.pruner, self.num_epochs),
            load_if_exists=True,
        )

    def claim(self, num_trials: int | None) -> ClaimedTrial | None:
        """Return a trial to run: one that no process runs any more, or a new one.

        None if the study has `num_trials` trials that are complete, pruned or running.
        """
        with self._thread_lock, self.folder.lock():
            num_running = 0
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                lock = None if frozen.number in self._claimed else self._lock_trial(frozen.number)
                if lock is None:
                    num_running += 1
                else:
                    # Optuna has no public way to continue a trial of a process that has ended.
                    return self._claim(Trial(self._study, frozen._trial_id), lock)
            if num_trials is not None and self.num_finished + num_running >= num_trials:
                return None
            num_trials_so_far = len(self._study.get_trials(deepcopy=False))
            if not num_trials_so_far and self.config_values:
                is_config = self.config_values.keys() == self.space.distributions.keys()
                self._study.enqueue_trial(self.config_values, user_attrs={"is_config": is_config})
            # A sampler for each trial: with one seed for all, a resumed search would repeat its first trials.
            self._study.sampler = TPESampler(seed=derive_seed(self.seed, "search", num_trials_so_far))
            trial = self._study.ask()
            new_lock = self._lock_trial(trial.number)
            assert new_lock is not None
            return self._claim(trial, new_lock)

    def _lock_trial(self, number: int) -> ExitStack | None:
        """Return the held lock of a trial; None if another process holds it."""
        stack = ExitStack()
        try:
            stack.enter_context(self.folder.trial_lock(number))
        except LockedError:
            return None
        return stack

    def _claim(self, trial: Trial, lock: ExitStack) -> ClaimedTrial:
        self._claimed.add(trial.number)
        return ClaimedTrial(trial, self.space.suggest(trial), lock)

    def release(self, claimed: ClaimedTrial) -> None:
        """Release the lock of a trial."""
        claimed.lock.close()
        self._claimed.discard(claimed.number)

    @property
    def num_finished(self) -> int:
        """How many trials are complete or pruned."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def report(self, claimed: ClaimedTrial, epoch: int, value: float) -> bool:
        """Record the objective after an epoch, counted over all folds; return whether to prune the trial."""
        trial = claimed.trial
        reported = self._get(trial.number).intermediate_values
        if epoch not in reported:  # else it is trained again, from an older checkpoint
            trial.report(value, epoch)
        return trial.should_prune()

    def complete(self, claimed: ClaimedTrial, objective: float, scores: TrialScores) -> None:
        """Record a complete trial."""
        claimed.trial.set_user_attr("scores", scores.model_dump(mode="json"))
        self._study.tell(claimed.number, objective)

    def prune(self, claimed: ClaimedTrial) -> None:
        """Record a pruned trial."""
        self._study.tell(claimed.number, state=TrialState.PRUNED)

    def fail(self, claimed: ClaimedTrial, reason: str) -> None:
        """Record a failed trial."""
        claimed.trial.set_user_attr("reason", reason)
        self._study.tell(claimed.number, state=TrialState.FAIL)

    def set_epochs(self, claimed: ClaimedTrial, *, planned: int | None = None, trained: int | None = None) -> None:
        """Record how many epochs a trial has, or how many are trained, over all folds."""
        for name, number in (("planned", planned), ("trained", trained)):
            if number is not None:
                claimed.trial.set_user_attr(name, number)

    def results(self) -> list[TrialResult]:
        """Return all trials, in their order."""
        return [_result(trial) for trial in self._study.get_trials(deepcopy=False)]

    def importance(self) -> dict[str, float]:
        """Return the share of each key in reaching the best tenth of the complete trials; {} if there are too few."""
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < MIN_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
            return {}
        return optuna.importance.get_param_importances(self._study)

    def _get(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


def _make_pruner(name: PrunerName, num_epochs: int) -> BasePruner:
    if name == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=num_epochs // 4 + 1)
    return HyperbandPruner(min_resource=1) if name == "hyperband" else NopPruner()


def _result(trial: FrozenTrial) -> TrialResult:
    attributes: Mapping[str, Any] = trial.user_attrs
    state = STATES[trial.state]
    scores = attributes.get("scores")
    return TrialResult(
        number=trial.number,
        state=state,
        values={key: parse_value(value) for key, value in trial.params.items()},
        curve=dict(sorted(trial.intermediate_values.items())),
        num_epochs=attributes.get("planned", 0),
        num_trained=attributes.get("trained", 0),
        objective=trial.value if state == "complete" else None,
        scores=None if scores is None else TrialScores.model_validate(scores),
        reason=attributes.get("reason", ""),
        is_config=attributes.get("is_config", False),
    )
