"""Hyperparameter search: trials of a config's member with other values, trained on a few folds, the worst pruned."""

import threading
from contextlib import ExitStack
from dataclasses import replace
from textwrap import wrap
from typing import Any

from pipeline.cores import available_cores
from pipeline.executors.arrangement import Slots, find_slots
from pipeline.executors.factory import open_executor
from pipeline.files import write_text
from pipeline.progress import log, progress_display
from pipeline.tuning.context import Search
from pipeline.tuning.results import SearchResult
from pipeline.tuning.slots import TrialSlot, local_slots, run_in_slots, shared_slots
from pipeline.tuning.study import SearchStudy, study_errors
from pipeline.tuning.trials import DEFAULT_TRIALS, Budget, TrialRunner, delete_weights, search_result

COMMENT_WIDTH = 118  # characters of a line of best.yaml


def tune(search: Search) -> SearchResult:
    """Run trials until there are as many as the options say, or their time is over; write best.yaml and report.html."""
    settings = search.settings()
    search.context.source.release()
    with study_errors(search.folder):
        study = _open_study(search, settings)
        delete_weights(search, study)
        _run_trials(search, study)
        result = replace(search_result(search, study), importance=study.importance())
    _write_best(search, result)
    _write_report(search, result)
    return result


def _open_study(search: Search, settings: dict[str, Any]) -> SearchStudy:
    """Create the search, or verify that it was created with the same settings."""
    context, folder, options = search.context, search.folder, search.options
    with folder.lock():
        folder.create_or_verify(settings)
        if not context.run.has_folds:
            context.run.save_folds(context.fold_table)
        num_epochs = sum(job.member.num_epochs for job in search.jobs)
        return SearchStudy(
            folder,
            search.space,
            options.objective,
            options.pruner,
            context.config.seed,
            num_epochs,
            search.space.values_of(search.config),
        )


def _run_trials(search: Search, study: SearchStudy) -> None:
    budget, stop = Budget(search.options), threading.Event()
    num_left = budget.num_left(study)
    if num_left == 0:
        return
    flops = sum(job.training_flops(search.context.fold_table) for job in search.jobs)
    with ExitStack() as stack, progress_display(flops * (num_left or 0)) as display:
        slots = _open_slots(search, num_left, stack)
        log.info("search %s: %d trials at a time", search.folder.name, len(slots))
        run_in_slots(slots, TrialRunner(search, study, display, budget, stop).run_trials, stop)


def _open_slots(search: Search, num_trials: int | None, stack: ExitStack) -> list[TrialSlot]:
    """Return slots for some trials; None: as many as there is room for."""
    context, machine, config = search.context, search.context.machine, search.context.config.machine
    if context.executor.executor == "ray":
        slots = Slots((str(machine.device),), available_cores())
        executor = stack.enter_context(open_executor(context.executor, config, machine, slots, 0))
        return shared_slots(executor)[:num_trials]
    slots = find_slots(
        config,
        machine,
        job_memory=max(job.training_memory(context.fold_table) for job in search.jobs),
        total_flops=(num_trials or DEFAULT_TRIALS) * sum(job.training_flops(context.fold_table) for job in search.jobs),
    )
    # Linear heads share the features of the frozen model, which this process has.
    is_linear = search.config.members[search.member].head == "linear"
    return local_slots(slots.for_jobs(1 if is_linear else num_trials or len(slots.devices)), config, machine)


def _write_best(search: Search, result: SearchResult) -> None:
    """Write the config with the values of the best trial, if there is one."""
    for best in result.ranked[:1]:
        head = f"The best of {len(result.ranked)} complete trials: trial {best.number}, {result.describe(best)}. "
        comment = [*wrap(head + result.how_to_evaluate, COMMENT_WIDTH), "", f"  {result.evaluation_command}"]
        text = "".join(f"# {line}".rstrip() + "\n" for line in comment)
        write_text(search.folder.best, text + search.space.apply(search.config, best.values).to_yaml())


def _write_report(search: Search, result: SearchResult) -> None:
    from pipeline.report.page import render
    from pipeline.report.tune_page import search_page

    write_text(search.folder.report, render(search_page(result)))
