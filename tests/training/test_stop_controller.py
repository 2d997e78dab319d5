"""When a process leaves its loop early: alone, and in a group that has to agree."""

import time

import pytest

from trainer.core.errors import Diverged
from trainer.core.signals import StopRequest
from trainer.distributed.process_group import SingleProcess
from trainer.distributed.step_barrier import Event
from trainer.training.stop_controller import StopController


class Second(SingleProcess):
    """A group as the second of two processes sees it: records wishes, and gives the answer that a test sets."""

    index, size = 1, 2

    def __init__(self):
        self.wishes, self.answer = [], None

    def poll(self, wish):
        self.wishes.append(wish)
        return self.answer


def made(group, max_seconds=0.0, started=None):
    stop, announcements = StopRequest(), []
    started = time.monotonic() if started is None else started
    return (
        StopController(group, stop, max_seconds=max_seconds, started=started, announce=announcements.append),
        stop,
        announcements,
    )


def test_a_signal_stops_and_is_announced_once():
    controller, stop, announcements = made(SingleProcess())
    assert not controller.poll()
    stop.reason = "SIGTERM"
    assert [controller.poll(), controller.poll()] == [True, True]
    assert (announcements, controller.cause) == (["SIGTERM"], "SIGTERM")


@pytest.mark.parametrize(("limit", "due"), [(0.0, False), (9.0, True), (3600.0, False)])
def test_the_time_limit_counts_from_the_start(limit, due):
    controller, _, announcements = made(SingleProcess(), max_seconds=limit, started=time.monotonic() - 10.0)
    assert controller.poll() is due
    assert announcements == (["--max_seconds"] if due else [])


def test_a_divergence_ends_a_process_that_is_alone_at_once():
    controller, _, _ = made(SingleProcess())
    with pytest.raises(Diverged, match="the loss"):
        controller.report_divergence(Diverged("the loss"))
    assert not controller.poll()


def test_with_others_a_divergence_waits_until_all_agree():
    group = Second()
    controller, _, announcements = made(group)
    controller.report_divergence(Diverged("the loss"))
    assert not controller.poll()
    group.answer = Event("diverged", "the loss")
    with pytest.raises(Diverged, match="the loss"):
        controller.poll()
    group.answer = None
    assert not controller.poll()  # Not wished again after all have acted on it: they may have rolled back.
    assert group.wishes == [Event("diverged", "the loss")] * 2 + [None]
    assert announcements == []


def test_with_others_a_wish_names_its_process_and_nobody_is_asked_after_the_agreement():
    group = Second()
    controller, stop, announcements = made(group)
    stop.reason = "SIGTERM"
    assert not controller.poll()
    assert group.wishes == [Event("stop", "SIGTERM of worker 1")]
    group.answer = Event("stop", "SIGTERM of worker 0")
    assert [controller.poll() for _ in range(3)] == [True] * 3
    assert (len(group.wishes), announcements, controller.cause) == (2, ["SIGTERM of worker 0"], "SIGTERM of worker 0")
