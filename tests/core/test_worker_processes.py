"""Work in other processes: results in order, and the loss of a worker is told with a remedy."""

import os
import time

import pytest

from trainer.core import worker_processes
from trainer.core.errors import JobFailed

pytestmark = pytest.mark.slow  # Processes.


def square(number):
    time.sleep(0.2 if number == 0 else 0)
    return number**2, os.getpid()


def end(number):
    os._exit(9)


def test_results_are_in_order_and_come_from_other_processes():
    results = list(worker_processes.ordered_map(square, range(5), 2, remedy=""))
    assert [square for square, _ in results] == [0, 1, 4, 9, 16]
    assert os.getpid() not in {process for _, process in results}
    (alone,) = worker_processes.ordered_map(square, [3], 2, remedy="")
    assert alone == (9, os.getpid())


def test_a_lost_worker_is_told_with_the_remedy():
    with pytest.raises(JobFailed, match=r"received the end of one.*; take fewer"):
        list(worker_processes.ordered_map(end, range(2), 2, remedy="take fewer"))
