"""When a process leaves its loop early, with a group of its own and with one that decides for it."""

import time

import pytest

from trainer.core.errors import Diverged
from trainer.core.signals import StopRequest
from trainer.distributed.process_group import SingleProcess
from trainer.distributed.step_barrier import Event
from trainer.training.stop_controller import StopController


class Second(SingleProcess):
    """A group as the second of two processes sees it: it notes the wishes, and answers what the test has put there."""

    index, size = 1, 2

    def __init__(self):
        self.wishes, self.answer = [], None

    def poll(self, wish):
        self.wishes.append(wish)
        return self.answer


def made(group, max_seconds=0.0, started=None):
    stop, said = StopRequest(), []
    started = time.monotonic() if started is None else started
    return StopController(group, stop, max_seconds=max_seconds, started=started, announce=said.append), stop, said


def test_a_signal_stops_and_is_announced_once():
    halt, stop, said = made(SingleProcess())
    assert not halt.poll()
    stop.reason = "SIGTERM"
    assert [halt.poll(), halt.poll()] == [True, True]
    assert (said, halt.cause) == (["SIGTERM"], "SIGTERM")


@pytest.mark.parametrize(("limit", "due"), [(0.0, False), (9.0, True), (3600.0, False)])
def test_the_time_limit_counts_from_the_start(limit, due):
    halt, _, said = made(SingleProcess(), max_seconds=limit, started=time.monotonic() - 10.0)
    assert halt.poll() is due
    assert said == (["--max_seconds"] if due else [])


def test_a_divergence_ends_a_process_that_is_alone_at_once():
    halt, _, _ = made(SingleProcess())
    with pytest.raises(Diverged, match="the loss"):
        halt.report_divergence(Diverged("the loss"))
    assert not halt.poll()


def test_with_others_a_divergence_waits_until_all_agree():
    group = Second()
    halt, _, said = made(group)
    halt.report_divergence(Diverged("the loss"))
    assert not halt.poll()
    group.answer = Event("diverged", "the loss")
    with pytest.raises(Diverged, match="the loss"):
        halt.poll()
    group.answer = None
    assert not halt.poll()  # What all have acted upon is wished no more: they may have gone back to a checkpoint.
    assert group.wishes == [Event("diverged", "the loss")] * 2 + [None]
    assert said == []


def test_with_others_a_wish_names_its_process_and_nobody_is_asked_after_the_agreement():
    group = Second()
    halt, stop, said = made(group)
    stop.reason = "SIGTERM"
    assert not halt.poll()
    assert group.wishes == [Event("stop", "SIGTERM of worker 1")]
    group.answer = Event("stop", "SIGTERM of worker 0")
    assert [halt.poll() for _ in range(3)] == [True] * 3
    assert (len(group.wishes), said, halt.cause) == (2, ["SIGTERM of worker 0"], "SIGTERM of worker 0")
