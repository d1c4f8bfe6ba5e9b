"""The trials of a hyperparameter search: each is trained on its folds, scored, pruned, or recorded as failed."""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import Config
from pipeline.error_messages import explain_error, on_one_line
from pipeline.errors import ConfigError, LostError, RunError, TrainingError
from pipeline.executors.executor import TrainingObserver
from pipeline.executors.fold_job import FoldJob
from pipeline.learning.data_workers import dataloader_errors
from pipeline.learning.metrics import score
from pipeline.learning.train_state import EpochRecord
from pipeline.learning.trial import try_member
from pipeline.predictions import Predictions, join
from pipeline.progress import Display, log
from pipeline.runs.fold_table import FoldTable
from pipeline.temperature_scaling import to_probabilities
from pipeline.tuning.context import Search, SearchOptions
from pipeline.tuning.results import OBJECTIVE_NAMES, Z95, Objective, SearchResult, TrialScores, format_values
from pipeline.tuning.slots import TrialSlot
from pipeline.tuning.study import ClaimedTrial, SearchStudy

DEFAULT_TRIALS = 20
MAX_FIRST_FAILURES = 5
TRIAL_NAME = re.compile(r"^trial \d+ \S+ fold \d+: ")  # what executors put before an error
OUT_OF_MEMORY = "out of memory"  # how explain_error names it


class Budget:
    """How many trials the study is to have, and when this command stops starting some."""

    def __init__(self, options: SearchOptions) -> None:
        is_open = options.trials is None and options.minutes is None
        self.num_trials = DEFAULT_TRIALS if is_open else options.trials
        self._end = None if options.minutes is None else time.monotonic() + 60 * options.minutes

    def num_left(self, study: SearchStudy) -> int | None:
        """Return how many trials are left; None: as many as the time allows."""
        return None if self.num_trials is None else max(0, self.num_trials - study.num_finished)

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end


class _PrunedError(Exception):
    """Stops the training of a trial."""


@dataclass(frozen=True)
class _TrialObserver(TrainingObserver):
    """Reports the epochs of a trial, and stops it when it is pruned."""

    study: SearchStudy
    claimed: ClaimedTrial
    objective: Objective
    num_folds_before: int
    """Folds of the trial that are trained already."""
    num_folds: int

    def on_epoch(self, job: FoldJob, record: EpochRecord) -> None:
        """Raises _PrunedError."""
        planned = self.num_folds * job.member.num_epochs
        epoch = self.num_folds_before * job.member.num_epochs + record.epoch
        value = record.validation_accuracy if self.objective == "accuracy" else record.validation_loss
        self.study.set_epochs(self.claimed, trained=epoch)
        # After the last epoch there is nothing to save.
        if value is not None and self.study.report(self.claimed, epoch, value) and epoch < planned:
            name = OBJECTIVE_NAMES[self.objective]
            raise _PrunedError(f"epoch {epoch} of {planned}, {name} {value:.4f} on validation images")


class TrialRunner:
    """Trains trials, one after the other in each slot."""

    def __init__(
        self, search: Search, study: SearchStudy, display: Display, budget: Budget, stop: threading.Event
    ) -> None:
        self._search, self._study, self._budget, self._stop = search, study, budget, stop
        self._store, self._table = search.context.stores["train"], search.context.fold_table
        self._display, self._objective = display, search.options.objective
        self._num_failed = 0
        self._lock = threading.Lock()

    def run_trials(self, slot: TrialSlot) -> None:
        """Train trials in a slot until the budget is spent."""
        while not self._stop.is_set() and not self._budget.is_over:
            claimed = self._study.claim(self._budget.num_trials)
            if claimed is None:
                return
            try:
                self._run(claimed, slot)
            finally:
                self._study.release(claimed)

    def _run(self, claimed: ClaimedTrial, slot: TrialSlot) -> None:
        log.info("trial %d: %s", claimed.number, format_values(claimed.values))
        try:
            config = self._search.space.apply(self._search.config, claimed.values)
            jobs = self._prepare(claimed, config, slot)
            scores = self._train(claimed, jobs, slot)
        except _PrunedError as error:
            slot.close()
            self._study.prune(claimed)
            log.info("trial %d: pruned after %s", claimed.number, error)
        except Exception as error:
            reason = _failure(error)
            if self._stop.is_set() or not reason:
                raise
            slot.close()
            self._study.fail(claimed, reason)
            log.warning("trial %d has failed: %s", claimed.number, reason)
            self._check_failures(reason)
        else:
            objective = float(np.mean([getattr(each, self._objective) for each in scores[:-1]]))
            self._study.complete(claimed, objective, scores[-1])
            log.info("trial %d: %s %.4f", claimed.number, OBJECTIVE_NAMES[self._objective], objective)
        delete_weights(self._search, self._study)

    def _prepare(self, claimed: ClaimedTrial, config: Config, slot: TrialSlot) -> list[FoldJob]:
        search = self._search
        member = config.members[search.member]
        with self._lock:  # it changes the generators of the process, and restores them
            try_member(search.member, member, search.context.task, search.context.machine)
        search.folder.save_trial_config(claimed.number, config)
        jobs = [replace(job, num_threads=slot.num_threads) for job in search.jobs_of(claimed.number, config)]
        self._study.set_epochs(claimed, planned=member.num_epochs * len(jobs))
        return jobs

    def _train(self, claimed: ClaimedTrial, jobs: Sequence[FoldJob], slot: TrialSlot) -> list[TrialScores]:
        """Train the folds of a trial; return the scores of each, and those of all their images."""
        parts = list[Predictions]()
        for index, job in enumerate(jobs):
            if job.folder.is_trained:
                parts.append(job.folder.out_of_fold())
                continue
            observer = _TrialObserver(self._study, claimed, self._objective, index, len(jobs))
            with dataloader_errors():
                parts += slot.executor().train([job], self._store, self._table, self._display, observer)
        return [score_trial(part, self._table) for part in (*parts, join(parts))]

    def _check_failures(self, reason: str) -> None:
        """Raise RunError if all trials so far have failed, and they are not few."""
        self._num_failed += 1
        if self._num_failed >= MAX_FIRST_FAILURES and not self._study.num_finished:
            raise RunError(
                f"the first {self._num_failed} trials of the search {self._search.folder.name} have all failed, the "
                f"last one: {reason}; change the search space or the config, and choose another --run"
            )


def search_result(search: Search, study: SearchStudy) -> SearchResult:
    """Return all trials of a search, without the importance of the parameters, which takes a moment."""
    return SearchResult(
        name=search.folder.name,
        member=search.member,
        objective=search.options.objective,
        folds=search.context.config.folds.trained,
        keys=list(search.space.distributions),
        trials=study.results(),
        importance={},
        evaluation_command=search.evaluation_command,
    )


def delete_weights(search: Search, study: SearchStudy) -> None:
    """Delete weights, predictions and checkpoints of all finished trials but the best."""
    result = search_result(search, study)
    best = result.ranked[:1]
    for trial in result.trials:
        if trial.state != "running" and trial not in best:
            for fold in result.folds:
                search.folder.trial(trial.number).fold(search.member, fold).discard_results()


def score_trial(predictions: Predictions, table: FoldTable) -> TrialScores:
    """Score the predictions of validation images."""
    probabilities, labels = to_probabilities(predictions.logits), table.labels_for(predictions.ids)
    scores = score(probabilities, labels)
    own = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).eps)
    half = Z95 * float(np.log(own).std()) / len(labels) ** 0.5
    interval = scores.log_loss - half, scores.log_loss + half
    return TrialScores(**scores.model_dump(), log_loss_ci95=interval)


def _failure(error: Exception) -> str:
    """Return why a trial has failed, without advice for a run; an empty string for an error that ends the search."""
    if isinstance(error, TrainingError | ConfigError | LostError):
        return TRIAL_NAME.sub("", on_one_line(error)).partition(";")[0]
    explained = explain_error(error)
    return explained if explained.startswith(OUT_OF_MEMORY) else ""
