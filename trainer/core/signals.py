"""Stop requests: the first SIGTERM or SIGINT asks the job to stop, the second ends the process at once."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from trainer.core.errors import EXIT_STOPPED, StoppedEarly

_STUCK_SECONDS = 5.0  # After a signal that the main thread should have handled at once.


class StopRequest:
    """Whether the process was asked to stop.

    Attributes:
        reason: name of the signal; empty before the first.
        noticed: the same, but set even while the main thread waits inside a TensorFlow operation.
        at_once: if not empty, a signal raises StoppedEarly with these words wherever the main thread is, because
            everything is saved and there is no step to finish.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.noticed = ""
        self.at_once = ""

    def __call__(self) -> bool:
        """Return whether a signal has arrived."""
        return bool(self.reason)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Handle signals while the block runs; only a main thread can, in others the request never comes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    old_handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, _: FrameType | None) -> None:
        request.reason = signal.Signals(number).name
        for each in old_handlers:  # The second signal ends the process.
            signal.signal(each, signal.SIG_DFL)
        if request.at_once:
            raise StoppedEarly(f"{request.reason} {request.at_once}")

    with _watched(request):
        for number in old_handlers:
            signal.signal(number, handle)
        try:
            yield request
        finally:
            for number, handler in old_handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _watched(request: StopRequest) -> Iterator[None]:
    """Also watch for signals on a thread.

    While the main thread waits inside a TensorFlow operation (a collective whose peer hangs), Python's handlers do not
    run, neither for the first signal nor for the second.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    old_descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(receiver, request), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_descriptor)
        sender.close()
        thread.join()
        receiver.close()


def _watch(receiver: socket.socket, request: StopRequest) -> None:
    """Act on signals that the main thread does not handle, until the other end of ``receiver`` closes."""
    count = 0
    while True:
        patience = _STUCK_SECONDS if count and request.at_once and not request.reason else None
        if not select.select([receiver], [], [], patience)[0]:  # The main thread is stuck.
            if not request.reason:
                print(f"stopped: a signal {request.at_once}", file=sys.stderr, flush=True)
                os._exit(EXIT_STOPPED)
            continue
        numbers = receiver.recv(16)
        if not numbers:
            return
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                count += 1
                request.noticed = signal.Signals(number).name
                if count > 1:
                    os._exit(128 + number)
