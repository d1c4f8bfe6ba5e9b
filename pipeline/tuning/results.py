"""The trials of a hyperparameter search -> the best one, what pruning saved, and what chance alone would give."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from pipeline.results import Interval, Scores

Objective = Literal["accuracy", "log_loss"]
OBJECTIVE_NAMES: dict[Objective, str] = {"accuracy": "accuracy", "log_loss": "log loss"}
State = Literal["complete", "pruned", "failed", "running"]
Z95 = 1.96  # standard errors from the middle of a 95 % confidence interval to its ends


class TrialScores(Scores):
    """Scores of a trial on the validation images of all its folds."""

    log_loss_ci95: Interval


@dataclass(frozen=True)
class TrialResult:
    """A trial: its values by config key, and how it went."""

    number: int
    state: State
    values: Mapping[str, Any]
    curve: Mapping[int, float]
    """The objective on the validation images after an epoch, from 1; the folds follow one another."""
    num_epochs: int
    """Epochs of all folds, if it is not pruned."""
    num_trained: int
    """Epochs that were trained."""
    objective: float | None = None
    """Mean over the folds; None unless the trial is complete."""
    scores: TrialScores | None = None
    reason: str = ""
    """Why it has failed."""
    is_config: bool = False
    """Whether its values are the config's own."""


@dataclass(frozen=True)
class Gain:
    """How much better the best trial is than the median one, and how much of that chance alone would give."""

    best: float
    median: float
    chance: float
    """Of the best of equally good trials: the expected maximum of as many normal draws with `standard_error`."""
    standard_error: float
    """Of one trial."""
    num_trials: int

    @property
    def explanation(self) -> str:
        """What chance alone would give, and why."""
        return (
            f"chance alone would give up to {self.chance:.4f}: the expected maximum of {self.num_trials} normal draws "
            f"with the standard error of one trial, {self.standard_error:.4f}; less where trials err on the same images"
        )


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search."""

    name: str
    member: str
    objective: Objective
    folds: Sequence[int]
    """The validation images of these folds, from 0, give the objective."""
    keys: Sequence[str]
    """The config keys that are searched."""
    trials: Sequence[TrialResult]
    importance: Mapping[str, float]
    """Share of each key in reaching the best tenth of the complete trials; empty if there are too few."""
    evaluation_command: str
    """Scores the best config on the folds that no trial has used; empty if there are none."""

    @property
    def objective_name(self) -> str:
        """For people."""
        return OBJECTIVE_NAMES[self.objective]

    @property
    def folds_text(self) -> str:
        """For people: `fold 0`, or `folds 0, 1`."""
        return f"fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))}"

    @property
    def how_to_evaluate(self) -> str:
        """Why the score of the best trial is too good, and what to do; the command, if there is one, comes next."""
        why = f"The best trial was chosen by its score on {self.folds_text}, so this score is optimistic."
        if not self.evaluation_command:
            return f"{why} The trials use all folds, so there is none for an unbiased score; use fewer with --fold."
        return f"{why} Score its config on the folds that no trial has used:"

    @property
    def is_maximized(self) -> bool:
        """Whether a larger objective is better."""
        return self.objective == "accuracy"

    def in_state(self, state: State) -> list[TrialResult]:
        """Return the trials in a state, in their order."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def ranked(self) -> list[TrialResult]:
        """The complete trials, the best first."""
        sign = -1 if self.is_maximized else 1
        return sorted(self.in_state("complete"), key=lambda trial: (sign * (trial.objective or 0.0), trial.number))

    def interval(self, trial: TrialResult) -> Interval:
        """Return the 95 % confidence interval of the objective of a complete trial."""
        assert trial.scores is not None
        return trial.scores.accuracy_ci95 if self.is_maximized else trial.scores.log_loss_ci95

    def describe(self, trial: TrialResult) -> str:
        """Format the objective of a complete trial with its interval."""
        low, high = self.interval(trial)
        return f"{self.objective_name} {trial.objective:.4f} (95 % CI {low:.4f} to {high:.4f})"

    @property
    def epochs_saved(self) -> tuple[int, int]:
        """The epochs that pruned trials did not train, and those of all finished trials without pruning."""
        pruned = self.in_state("pruned")
        finished = [*self.in_state("complete"), *pruned]
        return sum(t.num_epochs - t.num_trained for t in pruned), sum(t.num_epochs for t in finished)

    @property
    def config_trial(self) -> TrialResult | None:
        """The complete trial with the config's own values, if there is one."""
        return next((trial for trial in self.ranked if trial.is_config), None)

    @property
    def gain_over_config(self) -> float | None:
        """How much better the best trial is than that with the config's own values; None without the latter."""
        if self.config_trial is None:
            return None
        return abs((self.ranked[0].objective or 0.0) - (self.config_trial.objective or 0.0))

    @property
    def gain(self) -> Gain | None:
        """The gain of the best trial; None with fewer than two complete trials."""
        ranked = self.ranked
        if len(ranked) < 2:
            return None
        values = [trial.objective or 0.0 for trial in ranked]
        middle = ranked[len(ranked) // 2]
        error = self._standard_error(middle)
        return Gain(values[0], median(values), expected_maximum(len(ranked)) * error, error, len(ranked))

    def _standard_error(self, trial: TrialResult) -> float:
        assert trial.scores is not None
        if self.is_maximized:
            return math.sqrt(trial.scores.accuracy * (1 - trial.scores.accuracy) / trial.scores.num_images)
        low, high = trial.scores.log_loss_ci95
        return (high - low) / (2 * Z95)


def expected_maximum(num_draws: int) -> float:
    """Return the expected maximum of some draws from the standard normal distribution."""
    # Here, as most commands import this module and few call this.
    from scipy.integrate import quad
    from scipy.stats import norm

    def integrand(x: float) -> float:
        return float(x * num_draws * norm.pdf(x) * norm.cdf(x) ** (num_draws - 1))

    return float(quad(integrand, -10, 10, points=[0.0], limit=200)[0])


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the shortest ends of dotted keys that tell them apart: `lr`, or `optimizer.lr` and `muon.lr`."""
    parts = [key.split(".") for key in keys]

    def shortest(own: Sequence[str]) -> str:
        for length in range(1, len(own)):
            if sum(other[-length:] == own[-length:] for other in parts) == 1:
                return ".".join(own[-length:])
        return ".".join(own)

    return [shortest(own) for own in parts]


def format_value(value: Any) -> str:
    """Format a value of a trial: a number with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_values(values: Mapping[str, Any]) -> str:
    """Format the values of a trial on one line."""
    names = short_names(list(values))
    return ", ".join(f"{name} {format_value(value)}" for name, value in zip(names, values.values(), strict=True))
