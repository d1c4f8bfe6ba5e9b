import threading
import time
from contextlib import suppress

import pytest

from pipeline.cores import threads_of_python
from pipeline.data.prefetch import QUEUE_SIZE, prefetch


def counting_job(start, stop):
    def job(put):
        for number in range(start, stop):
            put(number)

    return job


def test_one_job_keeps_its_order():
    with prefetch([counting_job(0, 100)], 2) as results:
        assert list(results) == list(range(100))


def test_each_result_of_several_jobs_is_yielded_once():
    jobs = [counting_job(start, start + 50) for start in range(0, 500, 50)]

    with prefetch(jobs, 3) as results:
        assert sorted(results) == list(range(500))


def test_error_in_job_is_raised_to_consumer():
    def failing_job(put):
        put(1)
        raise ValueError("corrupted")

    with pytest.raises(ValueError, match="corrupted"), prefetch([failing_job, counting_job(0, 10**9)], 2) as results:
        list(results)


@pytest.mark.parametrize("error", [None, ValueError], ids=["normally", "by an error"])
def test_jobs_run_ahead_by_queue_size_and_have_ended_when_the_block_ends(error):
    produced, num_threads_before = [], threading.active_count()

    def job(put):
        for number in range(10**9):
            produced.append(number)
            put(number)

    with suppress(ValueError), prefetch([job], 1) as results:
        assert next(results) == 0
        time.sleep(0.05)
        assert len(produced) <= QUEUE_SIZE + 3
        if error is not None:
            raise error

    assert threading.active_count() == num_threads_before


@pytest.mark.parametrize(("num_cores", "num_threads"), [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_images_are_read_and_decoded_by_at_most_four_threads(monkeypatch, num_cores, num_threads):
    monkeypatch.setattr("joblib.cpu_count", lambda: num_cores)

    assert threads_of_python() == num_threads
