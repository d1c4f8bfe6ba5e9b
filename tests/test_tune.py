"""Searches with tiny models; their parts are in test_search_space.py and test_search_results.py."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from conftest import ROOT

from pipeline.config_files import load_config
from pipeline.errors import ConfigError, InputError, RunError
from pipeline.ledger import SUBMISSIONS, Ledger
from pipeline.runs.run_folder import open_run
from pipeline.runs.search_folder import SearchFolder
from pipeline.task import CIFAR10
from pipeline.tuning.context import SearchOptions, open_search
from pipeline.tuning.space import parse_space
from pipeline.tuning.study import SearchStudy
from pipeline.tuning.tune import tune
from pipeline.workflow import report_all_runs

CONFIG = """
members:
  net:
    model: {name: tutorial_cnn}
    train: {epochs: 3, batch_size: 32, optimizer: {lr: 0.02}}
folds: {num_folds: 3}
predict: {tta: none}
machine: {jobs: 1, threads_per_job: 1, device: cpu}
"""
LR = "members.net.train.optimizer.lr"
SPACE = f"{LR}: {{low: 0.001, high: 0.1, log: true}}\nmembers.net.train.batch_size: [16, 32]"


class Killed(BaseException):
    """What ends a process in a test."""


@pytest.fixture
def start(tmp_path, monkeypatch, zip_folder):
    """Open a search in the test's folder; run it with `tune`."""
    monkeypatch.chdir(tmp_path)

    def call(name="mine", space=SPACE, config=CONFIG, overrides=(), **options):
        Path("mine.yaml").write_text(config)
        Path("space.yaml").write_text(space)
        options = SearchOptions(Path("space.yaml"), **({"trials": 3, "pruner": "none"} | options))
        return open_search(
            CIFAR10, options, config_path=Path("mine.yaml"), input_dir=zip_folder, run_name=name, overrides=overrides
        )

    return call


def outcomes(result):
    return [(trial.number, trial.state, dict(trial.values), trial.objective) for trial in result.trials]


def files(name, number, fold=0):
    return {path.name for path in (SUBMISSIONS / name / "trials" / str(number) / "net" / f"fold_{fold}").iterdir()}


def test_search_ends_with_the_best_config_and_a_report(start):
    result = tune(start())
    best = result.ranked[0]
    config = load_config(SUBMISSIONS / "mine" / "best.yaml")

    assert [trial.state for trial in result.trials] == ["complete"] * 3
    assert dict(result.config_trial.values) == {LR: 0.02, "members.net.train.batch_size": 32}
    assert result.config_trial.number == 0
    assert all(0.001 <= trial.values[LR] <= 0.1 for trial in result.trials)
    assert len({trial.values[LR] for trial in result.trials}) == 3
    assert all(list(trial.curve) == [1, 2, 3] for trial in result.trials)
    assert config.members["net"].train.optimizer.lr == best.values[LR]
    assert config.folds == load_config(Path("mine.yaml")).folds
    assert best.scores.num_images in (66, 67)
    assert best.objective == pytest.approx(best.scores.accuracy)
    assert (SUBMISSIONS / "mine" / "best.yaml").read_text().startswith("# The best of 3 complete trials: trial ")
    report = (SUBMISSIONS / "mine" / "report.html").read_text()
    assert "hyperparameter search: net, fold 0" in report
    assert "folds.train=[1, 2]" in report
    overview = report_all_runs().read_text()
    assert '<a href="mine/report.html">mine</a>' in overview
    assert "0 runs" in overview


@pytest.mark.heavy
def test_only_the_best_trial_keeps_its_weights(start):
    result = tune(start())
    best = result.ranked[0].number

    for number in range(3):
        assert ("weights.safetensors" in files("mine", number)) == (number == best)
        assert "history.csv" in files("mine", number)


def test_finished_search_trains_nothing_more(start, monkeypatch):
    first = tune(start())
    monkeypatch.setattr("pipeline.tuning.tune.run_in_slots", None)

    assert outcomes(tune(start())) == outcomes(first)


@pytest.mark.heavy
def test_more_trials_continue_the_search(start):
    first = tune(start(trials=2))
    second = tune(start(trials=3))

    assert outcomes(second)[:2] == outcomes(first)
    assert len(second.trials) == 3


def test_killed_search_resumes_its_trial_and_ends_with_the_same_trials(start, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.progress.log.propagate", True)
    expected = tune(start("uninterrupted"))
    report = SearchStudy.report

    def die(study, claimed, epoch, value):
        report(study, claimed, epoch, value)
        if (claimed.number, epoch) == (1, 2):
            raise Killed

    monkeypatch.setattr(SearchStudy, "report", die)
    with pytest.raises(Killed):
        tune(start())
    monkeypatch.setattr(SearchStudy, "report", report)
    with caplog.at_level("INFO", "pipeline"):
        resumed = tune(start())

    assert "trial 1 net fold 0: resumed after epoch 2" in caplog.text
    assert outcomes(resumed) == outcomes(expected)
    assert [list(trial.curve) for trial in resumed.trials] == [[1, 2, 3]] * 3


def test_trial_that_was_trained_but_not_recorded_is_not_trained_again(start, monkeypatch):
    complete = SearchStudy.complete

    def die(*_):
        raise Killed

    monkeypatch.setattr(SearchStudy, "complete", die)
    with pytest.raises(Killed):
        tune(start(trials=1))
    monkeypatch.setattr(SearchStudy, "complete", complete)
    monkeypatch.setattr("pipeline.executors.local.LocalExecutor.train", None)
    result = tune(start(trials=1))

    assert [trial.state for trial in result.trials] == ["complete"]


@pytest.mark.heavy
def test_pruned_trial_stops_after_its_epoch(start, monkeypatch):
    report = SearchStudy.report

    def prune_second(study, claimed, epoch, value):
        report(study, claimed, epoch, value)
        return claimed.number == 1

    monkeypatch.setattr(SearchStudy, "report", prune_second)
    result = tune(start())
    pruned = result.trials[1]

    assert [trial.state for trial in result.trials] == ["complete", "pruned", "complete"]
    assert (list(pruned.curve), pruned.num_trained, pruned.num_epochs, pruned.objective) == ([1], 1, 3, None)
    assert result.epochs_saved == (2, 9)
    assert files("mine", 1) == set()


@pytest.mark.heavy
def test_diverged_trial_is_kept_as_failed_with_its_reason(start):
    result = tune(start(space=f"{LR}: [0.01, 1e30]", trials=2))
    failed = result.in_state("failed")

    assert len(result.in_state("complete")) == 2
    assert failed
    assert all(trial.values[LR] == 1e30 and "at epoch 1, step" in trial.reason for trial in failed)


@pytest.mark.heavy
def test_search_whose_first_trials_all_fail_ends(start):
    message = r"^the first 5 trials of the search mine have all failed, the last one: .* change the search space"
    with pytest.raises(RunError, match=message):
        tune(start(space=f"{LR}: {{low: 1e29, high: 1e30}}"))


def test_value_that_the_model_rejects_fails_its_trial(start):
    space = "members.net.model.params.no_such_argument: [1, 2]"
    with pytest.raises(RunError, match=r"the last one: members\.net\.model\.params: .*no_such_argument"):
        tune(start(space=space))


def test_error_that_is_not_of_a_trial_ends_the_search(start, monkeypatch):
    def fail(*_):
        raise RunError("disk full")

    monkeypatch.setattr("pipeline.executors.local.LocalExecutor.train", fail)
    with pytest.raises(RunError, match=r"^disk full$"):
        tune(start())


@pytest.mark.heavy
def test_objective_is_the_mean_over_the_folds(start):
    (trial,) = tune(start(trials=1, folds=(1, 0), objective="log_loss")).trials

    assert list(trial.curve) == [1, 2, 3, 4, 5, 6]
    assert trial.num_epochs == trial.num_trained == 6
    assert trial.scores.num_images in range(132, 136)
    assert trial.objective == pytest.approx(trial.scores.log_loss, rel=0.02)
    low, high = trial.scores.log_loss_ci95
    assert low < trial.scores.log_loss < high


def test_no_trial_starts_after_the_time(start):
    result = tune(start(trials=None, minutes=0.0))

    assert result.trials == []
    assert "No trial is complete yet." in (SUBMISSIONS / "mine" / "report.html").read_text()
    assert not (SUBMISSIONS / "mine" / "best.yaml").exists()


@pytest.mark.heavy
def test_other_settings_are_one_error_with_the_differences(start):
    tune(start(trials=1))
    message = (
        r"(?s)^the search mine was started with other settings; .*config\.seed: 0 -> 1\n.*objective: acc.* -> log_"
    )
    with pytest.raises(ConfigError, match=message):
        tune(start(trials=1, overrides=["seed=1"], objective="log_loss"))


@pytest.mark.heavy
def test_missing_study_is_not_replaced_by_a_new_one(start):
    tune(start(trials=1))
    (SUBMISSIONS / "mine" / "study.db").unlink()
    with pytest.raises(RunError, match=r"study\.db is missing; restore it, or choose another --run$"):
        tune(start(trials=1))


@pytest.mark.heavy
def test_corrupted_study_is_one_error(start):
    tune(start(trials=1))
    (SUBMISSIONS / "mine" / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match=r"study\.db can't be read or written \(.*\); fix the cause"):
        tune(start(trials=1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": (0, 3)}, InputError, r"^--fold 3: expected folds from 0 to 2$"),
        ({"folds": (0, -1)}, InputError, r"^--fold -1: expected folds from 0 to 2$"),
        ({"member": "nett"}, InputError, r"^--member nett: expected a member of the config: net$"),
        (
            {"overrides": ["members={net: {}, other: {}}"]},
            InputError,
            r"^the config has the members net, other; choose the one to search with --member$",
        ),
        (
            {"overrides": ["members.net.train.validate_every=0"], "pruner": "median"},
            ConfigError,
            r"^--pruner median needs the validation after each epoch; set members\.net\.train\.validate_every to 1",
        ),
        ({"name": "../evil"}, RunError, r"^--run '../evil': expected"),
    ],
)
def test_invalid_option_is_one_error_before_anything_is_written(start, options, error, message):
    with pytest.raises(error, match=message):
        start(**options)
    assert not SUBMISSIONS.exists()


@pytest.mark.heavy
def test_search_is_not_a_run(start):
    tune(start(trials=1))

    assert Ledger(SUBMISSIONS).rows() == []
    with pytest.raises(RunError, match=r"submissions/mine is a hyperparameter search, not a run"):
        open_run("mine")


def test_run_is_not_a_search(start):
    (SUBMISSIONS / "mine").mkdir(parents=True)
    (SUBMISSIONS / "mine" / "config.yaml").write_text("")
    with pytest.raises(RunError, match=r"submissions/mine is a run, not a search"):
        start()


@pytest.fixture
def open_study(tmp_path, monkeypatch):
    """Open the study of one search, as a process does."""
    monkeypatch.chdir(tmp_path)

    def call(pruner="none", **config_values):
        folder = SearchFolder("mine")
        with folder.lock():
            space = parse_space(SPACE, "space.yaml")
            return SearchStudy(folder, space, "accuracy", pruner, seed=0, num_epochs=3, config_values=config_values)

    return call


def test_running_trial_of_another_process_is_left_to_it(open_study):
    first, second = open_study(), open_study()
    own, other = first.claim(3), second.claim(3)

    assert (own.number, other.number) == (0, 1)
    assert own.values != other.values
    assert first.claim(2) is None
    second.release(other)  # as at the end of its process
    taken = first.claim(2)
    assert (taken.number, taken.values) == (1, other.values)
    assert second.claim(2) is None


def test_trial_whose_values_were_not_all_suggested_gets_the_others(open_study):
    study = open_study()
    optuna.load_study(study_name="search", storage="sqlite:///submissions/mine/study.db").ask()

    assert study.claim(1).values.keys() == {LR, "members.net.train.batch_size"}


def test_first_trial_has_the_values_of_the_config_that_are_in_the_space(open_study):
    study = open_study(**{LR: 0.02})
    first, second = study.claim(None), study.claim(None)

    assert (first.number, first.values[LR]) == (0, 0.02)
    assert second.values[LR] != 0.02
    assert not study.results()[0].is_config  # the batch size is another one


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trial_that_is_worse_than_others_is_pruned(open_study, pruner):
    study = open_study(pruner)
    is_pruned = []
    for number in range(10):
        claimed = study.claim(None)
        value = 0.9 if number < 6 else 0.1
        is_pruned.append(any([study.report(claimed, epoch, value * epoch) for epoch in (1, 2, 3)]))  # noqa: C419
        study.prune(claimed) if is_pruned[-1] else study._study.tell(claimed.number, value)
        study.release(claimed)

    assert not any(is_pruned[:6])
    assert any(is_pruned[6:])


@pytest.mark.heavy
def test_command_of_the_best_config_scores_it_on_other_folds(tmp_path, run_py, zip_folder):
    (tmp_path / "mine.yaml").write_text(CONFIG.replace("jobs: 1", "jobs: 2"))
    (tmp_path / "space.yaml").write_text(SPACE)
    command = ["tune", "--config", "mine.yaml", "--space", "space.yaml", "--trials", "4", "--input", zip_folder]
    done = run_py(*command)
    assert done.returncode == 0, done.stderr
    assert "search mine_tune: 4 trials of net on fold 0 (4 complete)" in done.stdout
    assert "2 trials at a time" in done.stderr

    words = shlex.split(re.search(r"has used:\n  python run\.py (.*)", done.stdout)[1])
    again = subprocess.run(
        [sys.executable, ROOT / "run.py", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "net fold 1: accuracy" in again.stdout
    assert "net fold 2: accuracy" in again.stdout
    assert "net fold 0" not in again.stdout
    assert [row.split(",")[0] for row in run_py("runs").stdout.splitlines()] == ["run", "mine_tune_best"]
    assert run_py("report", "--all").returncode == 0


@pytest.mark.heavy
def test_trials_in_processes_are_pruned_and_fail_alone(start):
    space = f"{LR}: [0.0001, 0.05, 1e30]\nmembers.net.train.batch_size: [8, 16]"
    config = CONFIG.replace("jobs: 1", "jobs: 2").replace("epochs: 3", "epochs: 6")
    result = tune(start(space=space, config=config, trials=12, pruner="median"))

    assert result.in_state("failed")
    assert len(result.in_state("complete")) + len(result.in_state("pruned")) == 12
    assert not result.in_state("running")
