import threading
import time

import pytest

from pipeline.data.prefetch import QUEUE_SIZE, prefetch


def counting_job(start, stop):
    def job(put):
        for number in range(start, stop):
            put(number)

    return job


def test_one_job_keeps_its_order():
    assert list(prefetch([counting_job(0, 100)], 2)) == list(range(100))


def test_each_result_of_several_jobs_is_yielded_once():
    jobs = [counting_job(start, start + 50) for start in range(0, 500, 50)]

    assert sorted(prefetch(jobs, 3)) == list(range(500))


def test_error_in_job_is_raised_to_consumer():
    def failing_job(put):
        put(1)
        raise ValueError("corrupted")

    results = prefetch([failing_job, counting_job(0, 10**9)], 2)
    with pytest.raises(ValueError, match="corrupted"):
        list(results)


def test_jobs_run_ahead_by_queue_size_and_end_when_generator_is_closed():
    produced, num_threads_before = [], threading.active_count()

    def job(put):
        for number in range(10**9):
            produced.append(number)
            put(number)

    results = prefetch([job], 1)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(produced) <= QUEUE_SIZE + 3
    results.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > num_threads_before and time.monotonic() < deadline:
        time.sleep(0.01)

    assert threading.active_count() == num_threads_before
