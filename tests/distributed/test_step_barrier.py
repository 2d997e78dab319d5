"""Processes that take an event at the same poll, here threads on queues; ``test_peers.py`` has real ones on sockets."""

import queue
import random
import threading
import time

import pytest

from trainer.distributed.step_barrier import Event, StepBarrier

STOP = Event("stop", "SIGTERM of worker 1")


def course(seed, wishes, polls=60, size=3):
    """Return what each process got at which poll, each at its own speed.

    Args:
        seed: of the speeds.
        wishes: ``{index: (poll, event)}``, what a process wishes from which poll on, until one of that kind happens.
        polls: of each process.
        size: processes.
    """
    inboxes = [queue.SimpleQueue() for _ in range(size)]
    locks = [threading.Condition() for _ in range(size)]

    def tell(sender):
        receivers = [0] if sender else range(1, size)
        return lambda kind, **values: [inboxes[to].put((sender, {"kind": kind, **values})) for to in receivers]

    parts = [StepBarrier(index, size, locks[index], tell(index)) for index in range(size)]
    found = [[] for _ in range(size)]

    def listen(index):
        for sender, message in iter(inboxes[index].get, None):
            with locks[index]:
                parts[index].take(sender, message)
                locks[index].notify_all()

    def work(index):
        speed = random.Random(seed * size + index)
        begin, wish = wishes.get(index, (0, None))
        for number in range(1, polls + 1):
            time.sleep(speed.uniform(0.0, 0.002))
            event = parts[index].poll(wish if number >= begin else None)
            if event:
                found[index].append((number, event))
                wish = None if wish and wish.kind == event.kind else wish

    listeners = [threading.Thread(target=listen, args=(index,), daemon=True) for index in range(size)]
    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(size)]
    for thread in listeners + workers:
        thread.start()
    for thread in workers:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a process waits for ever"
    for inbox in inboxes:
        inbox.put(None)
    return found


def test_without_a_wish_nothing_happens():
    assert course(0, {}) == [[], [], []]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("index", [0, 1])
def test_a_wish_of_one_happens_to_all_at_one_poll_that_none_has_passed(seed, index):
    found = course(seed, {index: (4, STOP)})
    assert found[1:] == found[:1] * 2
    ((poll, event),) = found[0]
    assert event == STOP
    assert poll >= 4


@pytest.mark.parametrize("seed", range(5))
def test_wishes_of_all_at_once_are_one_event(seed):
    wishes = {index: (3, Event("stop", f"of {index}")) for index in range(3)}
    found = course(seed, wishes)
    assert [len(events) for events in found] == [1, 1, 1]
    assert found[1:] == found[:1] * 2


@pytest.mark.parametrize("seed", range(5))
def test_a_later_wish_is_an_event_of_its_own(seed):
    found = course(seed, {1: (2, Event("diverged", "first")), 2: (20, Event("stop", "second"))})
    assert found[1:] == found[:1] * 2
    assert [event.kind for _, event in found[0]] == ["diverged", "stop"]
