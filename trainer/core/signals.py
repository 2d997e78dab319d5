"""Stop requests from outside: the first SIGTERM or SIGINT asks, the second ends the process at once."""

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

_STUCK_SECONDS = 5.0


class StopRequest:
    """Tells whether the process was asked to stop.

    Attributes:
        reason: name of the signal; empty before one came.
        at_once: if not empty, a signal raises StoppedEarly with these words where it finds the main thread, because
            everything is saved and there is no step to finish.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.at_once = ""

    def __call__(self) -> bool:
        """Return True once a signal came."""
        return bool(self.reason)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listen while the block runs; only a process's main thread can, elsewhere nothing is ever requested."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: FrameType | None) -> None:
        request.reason = signal.Signals(number).name
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if request.at_once:
            raise StoppedEarly(f"{request.reason} {request.at_once}")

    with _watched(request):
        for number in before:
            signal.signal(number, ask)
        try:
            yield request
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _watched(request: StopRequest) -> Iterator[None]:
    """Let a thread see signals, too.

    While the main thread waits inside a TensorFlow operation (a collective whose peer hangs), Python's handlers do not
    run, neither for the first signal nor for the second.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    earlier = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(receiver, request), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        sender.close()
        thread.join()
        receiver.close()


def _watch(receiver: socket.socket, request: StopRequest) -> None:
    """Act on signals that the main thread does not take, until the other end of ``receiver`` closes."""
    seen = 0
    while True:
        patience = _STUCK_SECONDS if seen and request.at_once and not request.reason else None
        if not select.select([receiver], [], [], patience)[0]:
            if not request.reason:
                print(f"stopped: a signal {request.at_once}", file=sys.stderr, flush=True)
                os._exit(EXIT_STOPPED)
            continue
        numbers = receiver.recv(16)
        if not numbers:
            return
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                seen += 1
                if seen > 1:
                    os._exit(128 + number)
