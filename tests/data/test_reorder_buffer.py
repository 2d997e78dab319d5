"""Elements arrive in any order and leave in sequence; lost and late ones are given up, and nothing waits for ever."""

import threading

from trainer.data.reorder_buffer import ReorderBuffer, ServiceHealth

LONG, SHORT = 600.0, 0.05


def put_all(buffer, numbers):
    """Put elements in from a thread of its own, as a service would; the element of n is -n."""
    thread = threading.Thread(target=lambda: [buffer.put(number, -number) for number in numbers], daemon=True)
    thread.start()
    return thread


def test_elements_leave_in_sequence():
    buffer = ReorderBuffer(4, LONG, ServiceHealth())
    put_all(buffer, [2, 0, 1, 5, 3, 4])
    assert [buffer.take(number) for number in range(6)] == [0, -1, -2, -3, -4, -5]
    assert buffer.next == 6


def test_a_lost_one_is_given_up_when_the_room_is_full_of_later_ones():
    buffer = ReorderBuffer(3, LONG, ServiceHealth())
    thread = put_all(buffer, [1, 2, 3, 4, 5])
    assert [buffer.take(number) for number in range(6)] == [None, -1, -2, -3, -4, -5]
    thread.join(10)
    assert not thread.is_alive()


def test_one_that_comes_after_it_was_given_up_takes_no_room():
    buffer = ReorderBuffer(1, LONG, ServiceHealth())
    thread = put_all(buffer, [1])
    assert buffer.take(0) is None
    assert buffer.take(1) == -1
    thread.join(10)
    buffer.put(0, "late")  # Would wait for room.
    thread = put_all(buffer, [2])
    assert buffer.take(2) == -2


def test_a_silent_service_is_waited_for_once_by_all_buffers_until_it_sends_again():
    service = ServiceHealth()
    one, other = ReorderBuffer(4, SHORT, service), ReorderBuffer(4, LONG, service)
    assert one.take(0) is None
    assert service.silent
    assert other.take(0) is None  # Or this test would take ten minutes.
    other.put(1, "again")
    assert not service.silent
    assert other.take(1) == "again"
    thread = put_all(other, [2])
    assert other.take(2) == -2
    thread.join(10)


def test_the_end_frees_both_sides():
    buffer = ReorderBuffer(1, LONG, ServiceHealth())
    thread = put_all(buffer, [7, 8])
    taker = threading.Thread(target=buffer.take, args=(1,), daemon=True)
    buffer.end()
    taker.start()
    for each in (thread, taker):
        each.join(10)
        assert not each.is_alive()
    assert buffer.over
    assert buffer.take(2) is None
