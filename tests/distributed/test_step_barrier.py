"""Processes act on an event at the same poll; here threads on queues, real ones in ``test_process_group.py``."""

import queue
import random
import threading
import time

import pytest

from trainer.distributed.step_barrier import Event, StepBarrier

STOP = Event("stop", "SIGTERM of worker 1")


def events_of(seed, requests, polls=60, size=3):
    """Return the events of each process with their polls; each process has its own speed.

    Args:
        seed: of the speeds.
        requests: ``{index: (poll, event)}``, what a process requests from that poll on, until that kind happens.
        polls: of each process at least; all go on until every request has happened, however slow a thread is.
        size: processes.
    """
    inboxes = [queue.SimpleQueue() for _ in range(size)]
    locks = [threading.Condition() for _ in range(size)]

    def send_from(sender):
        receivers = [0] if sender else range(1, size)
        return lambda kind, **values: [inboxes[to].put((sender, {"kind": kind, **values})) for to in receivers]

    barriers = [StepBarrier(index, size, locks[index], send_from(index)) for index in range(size)]
    events = [[] for _ in range(size)]
    open_requests, last = set(requests), [polls]

    def listen(index):
        for sender, message in iter(inboxes[index].get, None):
            with locks[index]:
                barriers[index].receive(sender, message)
                locks[index].notify_all()

    def work(index):
        speed = random.Random(seed * size + index)
        begin, request = requests.get(index, (0, None))
        number = 0
        while number < last[0] or open_requests:
            number += 1
            time.sleep(speed.uniform(0.0, 0.002))
            event = barriers[index].poll(request if number >= begin else None)
            if event:
                events[index].append((number, event))
                if request and request.kind == event.kind:
                    request = None
                    last[0] = max(last[0], number)  # First, as the others leave when there is no request.
                    open_requests.discard(index)

    listeners = [threading.Thread(target=listen, args=(index,), daemon=True) for index in range(size)]
    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(size)]
    for thread in listeners + workers:
        thread.start()
    for thread in workers:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a process waits for ever"
    for inbox in inboxes:
        inbox.put(None)
    return events


def test_without_a_request_nothing_happens():
    assert events_of(0, {}) == [[], [], []]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("index", [0, 1])
def test_a_request_of_one_happens_to_all_at_one_poll_that_none_has_passed(seed, index):
    events = events_of(seed, {index: (4, STOP)})
    assert events[1:] == events[:1] * 2
    ((poll, event),) = events[0]
    assert event == STOP
    assert poll >= 4


@pytest.mark.parametrize("seed", range(5))
def test_requests_of_all_at_once_are_one_event(seed):
    requests = {index: (3, Event("stop", f"of {index}")) for index in range(3)}
    events = events_of(seed, requests)
    assert [len(own) for own in events] == [1, 1, 1]
    assert events[1:] == events[:1] * 2


@pytest.mark.parametrize("seed", range(5))
def test_a_later_request_is_an_event_of_its_own(seed):
    events = events_of(seed, {1: (2, Event("diverged", "first")), 2: (20, Event("stop", "second"))})
    assert events[1:] == events[:1] * 2
    assert [event.kind for _, event in events[0]] == ["diverged", "stop"]


def test_a_request_of_an_earlier_round_is_ignored():
    """It crossed with an event that every process has acted on since."""
    lock, sent = threading.Condition(), []
    chief = StepBarrier(0, 2, lock, lambda kind, **values: sent.append(kind))
    request = {"kind": "wish", "event": {"kind": "stop", "reason": "SIGTERM of worker 1"}}
    with lock:
        chief.receive(1, {**request, "round": -1})
        assert sent == []
        chief.receive(1, {**request, "round": 0})
    assert sent == ["freeze"]
