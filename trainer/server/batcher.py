"""A bounded queue of images in front of a model, which one thread runs on batches of them.

Knows neither HTTP nor TensorFlow.
Owns: which images form a batch, and when it starts.  Does not own: what a model does with it (``scorer.py``).
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from trainer.server.refusal import Busy, Refusal

log = logging.getLogger(__name__)

_END_SECONDS = 5.0  # The server has waited for its requests before.


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One image in the queue.

    Attributes:
        kind: images of one kind are scored together.
        content: what the model gets.
        pixels: of the decoded image.
        future: receives the answer.
        since: when it came, seconds of ``time.monotonic``.
    """

    kind: str
    content: Any
    pixels: int
    future: "Future[Any]"
    since: float


Run = Callable[[str, list[Any]], Sequence[Any]]


class Batcher:
    """Collects images and runs a model on them.

    A batch starts when it is full, or when its first image has waited long enough.  It is full with ``max_size``
    images, or with ``max_pixels`` in them, so that decoded images have bounded memory; one image alone may have that
    many.
    """

    def __init__(
        self, run: Run, *, max_size: int, max_wait: float, max_queue: int, max_pixels: int,
        watch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:  # fmt: skip
        """Start the thread.

        Args:
            run: returns the answers to a list of contents of one kind; an exception is the answer to all of them.
            max_size: images of a batch.
            max_wait: seconds.
            max_queue: images that wait.
            max_pixels: of all images of a batch together.
            watch: called with the images and seconds of every batch.
        """
        self._run, self._watch = run, watch
        self._max_size, self._max_wait, self._max_queue, self._max_pixels = max_size, max_wait, max_queue, max_pixels
        self._items: collections.deque[Item] = collections.deque()
        self._change = threading.Condition()
        self._is_closed = False
        self._busy_since = 0.0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of images in the queue."""
        return len(self._items)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def busy_seconds(self) -> float:
        """How long the model has been at the current batch; 0 if it is idle."""
        since = self._busy_since
        return time.monotonic() - since if since else 0.0

    def submit(self, kind: str, contents: Sequence[Any], pixels: Sequence[int]) -> "list[Future[Any]]":
        """Put the images of a request into the queue, all or none, and return the futures of their answers.

        Raises:
            Refusal: if they are more than the queue can ever hold.
            Busy: if there is no room for them now.
        """
        if len(contents) > self._max_queue:
            raise Refusal(
                413, f"expected at most {self._max_queue} images in a request (--max_queue), received {len(contents)}; "
                "send several requests"
            )  # fmt: skip
        now = time.monotonic()
        items = [Item(kind, one, size, Future(), now) for one, size in zip(contents, pixels, strict=True)]
        with self._change:
            if self._is_closed or len(self._items) + len(items) > self._max_queue:
                raise Busy(
                    f"{len(self._items)} images wait for the model (--max_queue={self._max_queue}); try again later"
                )
            self._items.extend(items)
            self._change.notify()
        return [item.future for item in items]

    def hurry(self) -> None:
        """Start every further batch at once: a server that ends gets no other images for it."""
        with self._change:
            self._max_wait = 0.0
            self._change.notify()

    def close(self) -> None:
        """Score what is in the queue, and end the thread; one that hangs is left behind."""
        with self._change:
            self._is_closed = True
            self._change.notify()
        self._thread.join(_END_SECONDS)

    def _work(self) -> None:
        while batch := self._next():
            self._busy_since = start = time.monotonic()
            self._answer(batch)
            self._busy_since = 0.0
            self._watch(len(batch), time.monotonic() - start)

    def _next(self) -> list[Item]:
        """Wait for a batch and return it; an empty one at the end."""
        with self._change:
            while not self._items and not self._is_closed:
                self._change.wait()
            while self._items and not self._is_closed:
                rest = self._items[0].since + self._max_wait - time.monotonic()
                if rest <= 0 or self._full() < len(self._items) or self._full() == self._max_size:
                    break
                self._change.wait(rest)
            return [self._items.popleft() for _ in range(self._full())]

    def _full(self) -> int:
        """Return how many images at the head of the queue form the largest possible batch."""
        pixels = 0
        for count, item in enumerate(self._items):
            pixels += item.pixels
            is_over = count == self._max_size or pixels > self._max_pixels or item.kind != self._items[0].kind
            if count and is_over:
                return count
        return len(self._items)

    def _answer(self, batch: list[Item]) -> None:
        batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            answers = self._run(batch[0].kind, [item.content for item in batch])
            for item, answer in zip(batch, answers, strict=True):
                item.future.set_result(answer)
        except Exception as error:  # Whoever waits gets it.
            log.exception("a batch of %d images failed", len(batch))
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
