"""Work that may hang for ever, such as reads of a dead mount, on threads that nobody has to wait for.

While the main thread is inside a TensorFlow operation that waits for a batch, Python's signal handlers do not run, and
a read of a dead mount cannot be cancelled.  So reads run on daemon threads, and whoever waits for one gives it up when
the job is to stop.  Imports no TensorFlow.
"""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from trainer.core.errors import StoppedEarly
from trainer.data import slow_reads

T = TypeVar("T")

GRACE_SECONDS = 5.0  # For a read to end after a stop request: all but a hanging one do, and then a step can end.
_LOOK_SECONDS = 1.0

_Task = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class DaemonPool(Executor):
    """A pool of threads like ``ThreadPoolExecutor``, but the end of the process does not wait for them."""

    def __init__(self, most: int = 0) -> None:
        """Start no thread yet.

        Args:
            most: threads at most; 0: as many as there are tasks at once.
        """
        self._most = most
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0  # Tasks that wait or run.

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run a call on a thread and return its future."""
        future: Future[T] = Future()
        with self._lock:
            self._unfinished += 1
            is_short = self._threads < self._unfinished and (not self._most or self._threads < self._most)
            self._threads += is_short
        if is_short:
            threading.Thread(target=self._work, name="read", daemon=True).start()
        self._tasks.put((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end; tasks that have not begun are cancelled if so requested, and none is waited for."""
        tasks: list[_Task] = []
        with contextlib.suppress(queue.Empty):
            while cancel_futures:
                task = self._tasks.get_nowait()
                tasks += [task] if task else []
        for future, *_ in tasks:
            future.cancel()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._do(*task)
            del task  # A thread that waits for the next task must not keep a batch alive.

    def _do(self, future: "Future[Any]", function: Callable[..., Any], arguments: Any, options: Any) -> None:
        settle: Callable[[], object] = bool
        if future.set_running_or_notify_cancel():
            try:
                settle = functools.partial(future.set_result, function(*arguments, **options))
            except BaseException as error:  # Whoever waits gets it.
                settle = functools.partial(future.set_exception, error)
        with self._lock:  # First, so that a task that comes because of this one's result finds this thread free.
            self._unfinished -= 1
        settle()


_pool = DaemonPool()
_stop_reason: Callable[[], str] = str  # Why this process is to stop; empty if it is not.


@contextlib.contextmanager
def stopped_by(reason: Callable[[], str]) -> Iterator[None]:
    """Let calls of ``run`` in the block, on any thread, end if ``reason`` returns a text, such as "SIGTERM"."""
    global _stop_reason
    before, _stop_reason = _stop_reason, reason
    try:
        yield
    finally:
        _stop_reason = before


def run(action: Callable[[], T], is_void: Callable[[], bool] = bool) -> T:
    """Run ``action`` on a daemon thread and return its result.

    Args:
        action: may hang.
        is_void: whether the result is no longer of use.

    Raises:
        StoppedEarly: if it still runs a while after a stop request, or is void.
    """
    future = _pool.submit(action)
    stop_since = None
    while True:
        with contextlib.suppress(TimeoutError):
            return future.result(_LOOK_SECONDS)
        if future.done():  # The action itself raised a TimeoutError.
            return future.result()
        reason = _stop_reason()
        if reason and stop_since is None:
            stop_since = time.monotonic()
        if is_void() or (stop_since is not None and time.monotonic() - stop_since >= GRACE_SECONDS):
            raise StoppedEarly(f"{reason or 'stopped'} while waiting for {slow_reads.oldest() or 'images'}")
