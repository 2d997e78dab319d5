"""The queue in front of the model: which images form a batch, and what happens when it is full."""

import threading

import pytest

from trainer.server.batcher import Batcher
from trainer.server.budget import Budget
from trainer.server.refusal import Busy, Refusal


class Model:
    """Doubles numbers, and waits before each batch while ``gate`` is closed."""

    def __init__(self):
        self.batches, self.gate, self.started = [], threading.Event(), threading.Semaphore(0)

    def run(self, kind, contents):
        self.started.release()
        self.gate.wait(30)
        self.batches.append((kind, list(contents)))
        if "bad" in contents:
            raise RuntimeError("out of memory")
        return [2 * content for content in contents]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def make(model):
    batchers = []

    def make(**settings):
        settings = {"max_size": 4, "max_wait": 0.0, "max_queue": 8, "max_pixels": 100, **settings}
        batchers.append(Batcher(model.run, **settings))
        return batchers[-1]

    yield make
    model.gate.set()
    for batcher in batchers:
        batcher.close()


def busy(batcher, model):
    """Let the model be at a first batch, so that what follows waits."""
    (first,) = batcher.submit("a", [0], [1])
    assert model.started.acquire(timeout=30)
    return first


def results(model, futures):
    model.gate.set()
    return [future.result(30) for future in futures]


def test_images_of_several_requests_form_batches_of_one_kind(make, model):
    batcher = make()
    first = busy(batcher, model)
    futures = [first, *batcher.submit("a", [1, 2, 3], [1] * 3), *batcher.submit("a", [4, 5], [1] * 2)]
    futures += batcher.submit("b", [6], [1])
    assert results(model, futures) == [0, 2, 4, 6, 8, 10, 12]
    assert model.batches == [("a", [0]), ("a", [1, 2, 3, 4]), ("a", [5]), ("b", [6])]


def test_a_batch_waits_for_others_but_not_when_it_is_full(make, model):
    batcher = make(max_wait=600.0, max_size=2)
    futures = batcher.submit("a", [1], [1])
    assert not model.started.acquire(timeout=0.05)
    futures += batcher.submit("a", [2], [1])
    assert results(model, futures) == [2, 4]
    assert model.batches == [("a", [1, 2])]


def test_decoded_pixels_of_a_batch_are_bounded(make, model):
    batcher = make()
    first = busy(batcher, model)
    results(model, [first, *batcher.submit("a", [1, 2, 3, 4], [60, 40, 1, 100])])
    assert model.batches[1:] == [("a", [1, 2]), ("a", [3]), ("a", [4])]


def test_a_full_queue_refuses_and_takes_again(make, model):
    batcher = make(max_queue=3)
    first = busy(batcher, model)
    futures = batcher.submit("a", [1, 2], [1, 1])
    with pytest.raises(Busy, match="2 images wait") as caught:
        batcher.submit("a", [3, 4], [1, 1])
    assert caught.value.status == 503
    futures += batcher.submit("a", [5], [1])
    assert results(model, [first, *futures]) == [0, 2, 4, 10]
    assert results(model, batcher.submit("a", [6], [1])) == [12]
    with pytest.raises(Refusal, match="at most 3 images") as caught:
        batcher.submit("a", [0] * 4, [1] * 4)
    assert caught.value.status == 413


def test_an_error_of_the_model_is_the_answer_and_the_thread_lives(make, model):
    batcher = make()
    model.gate.set()
    (future,) = batcher.submit("a", ["bad"], [1])
    with pytest.raises(RuntimeError, match="out of memory"):
        future.result(30)
    assert batcher.is_alive
    assert results(model, batcher.submit("a", [1], [1])) == [2]


def test_the_end_scores_what_waits_and_takes_no_more(make, model):
    batcher = make(max_wait=600.0)
    futures = batcher.submit("a", [1, 2], [1, 1])
    model.gate.set()
    batcher.close()
    assert results(model, futures) == [2, 4]
    assert not batcher.is_alive
    with pytest.raises(Busy):
        batcher.submit("a", [3], [1])


def test_a_server_that_ends_does_not_wait_for_others(make, model):
    batcher = make(max_wait=600.0)
    futures = batcher.submit("a", [1, 2], [1, 1])
    batcher.hurry()
    assert results(model, futures) == [2, 4]
    assert results(model, batcher.submit("a", [3], [1])) == [6]


def test_a_budget_gets_back_what_a_request_held():
    budget = Budget(10)
    with budget.share() as share:
        share.add(6)
        with pytest.raises(Busy, match="6 of 10"), budget.share() as other:
            other.add(5)
        assert budget.used == 6
    assert budget.used == 0
