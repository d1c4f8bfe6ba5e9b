import threading
import time

import pytest

from pipeline.data.prefetch import NUM_WAITING, prefetch


def counting(start, stop):
    def job(put):
        for number in range(start, stop):
            put(number)

    return job


def test_one_job_keeps_its_order():
    assert list(prefetch([counting(0, 100)], 2)) == list(range(100))


def test_every_result_of_several_jobs_comes_once():
    jobs = [counting(start, start + 50) for start in range(0, 500, 50)]

    assert sorted(prefetch(jobs, 3)) == list(range(500))


def test_an_error_in_a_job_is_raised_where_its_results_are_wanted():
    def fails(put):
        put(1)
        raise ValueError("broken")

    found = prefetch([fails, counting(0, 10**9)], 2)
    with pytest.raises(ValueError, match="broken"):
        list(found)


def test_no_job_runs_far_ahead_and_all_end_when_nobody_listens():
    made, before = [], threading.active_count()

    def job(put):
        for number in range(10**9):
            made.append(number)
            put(number)

    found = prefetch([job], 1)
    assert next(found) == 0
    time.sleep(0.05)
    assert len(made) <= NUM_WAITING + 3
    found.close()
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)

    assert threading.active_count() == before
