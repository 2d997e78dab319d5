"""Elements in any order become elements in turn; what is lost or late is given up and nothing waits for ever."""

import threading

from trainer.data.reorder_buffer import ReorderBuffer, ServiceHealth

LONG, SHORT = 600.0, 0.05


def put_all(turns, numbers):
    """Put elements in from a thread of its own, as a service would; the element of n is -n."""
    thread = threading.Thread(target=lambda: [turns.put(number, -number) for number in numbers], daemon=True)
    thread.start()
    return thread


def test_elements_come_in_turn():
    turns = ReorderBuffer(4, LONG, ServiceHealth())
    put_all(turns, [2, 0, 1, 5, 3, 4])
    assert [turns.take(number) for number in range(6)] == [0, -1, -2, -3, -4, -5]
    assert turns.next == 6


def test_a_lost_one_is_given_up_when_the_room_is_full_of_later_ones():
    turns = ReorderBuffer(3, LONG, ServiceHealth())
    thread = put_all(turns, [1, 2, 3, 4, 5])
    assert [turns.take(number) for number in range(6)] == [None, -1, -2, -3, -4, -5]
    thread.join(10)
    assert not thread.is_alive()


def test_one_that_comes_after_it_was_given_up_takes_no_room():
    turns = ReorderBuffer(1, LONG, ServiceHealth())
    thread = put_all(turns, [1])
    assert turns.take(0) is None
    assert turns.take(1) == -1
    thread.join(10)
    turns.put(0, "late")  # Would wait for room.
    thread = put_all(turns, [2])
    assert turns.take(2) == -2


def test_a_silent_sender_is_waited_for_once_by_all_rooms_until_it_sends_again():
    sender = ServiceHealth()
    one, other = ReorderBuffer(4, SHORT, sender), ReorderBuffer(4, LONG, sender)
    assert one.take(0) is None
    assert sender.silent
    assert other.take(0) is None  # Or this test would take ten minutes.
    other.put(1, "again")
    assert not sender.silent
    assert other.take(1) == "again"
    thread = put_all(other, [2])
    assert other.take(2) == -2
    thread.join(10)


def test_the_end_frees_both_sides():
    turns = ReorderBuffer(1, LONG, ServiceHealth())
    thread = put_all(turns, [7, 8])
    taker = threading.Thread(target=turns.take, args=(1,), daemon=True)
    turns.end()
    taker.start()
    for each in (thread, taker):
        each.join(10)
        assert not each.is_alive()
    assert turns.over
    assert turns.take(2) is None
