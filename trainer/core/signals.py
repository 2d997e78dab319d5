"""Stop requests: the first signal asks for a stop, a second SIGTERM or SIGINT ends the process at once.

Owns: which signals ask for a stop, and what the process does where it cannot react.  Does not own: the line and exit
code of a command that was stopped (``cli.run_command``), and the time before a command runs (``early_signals.py``).
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from trainer.core import early_signals
from trainer.core.early_signals import ORDERS, WARNINGS
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


class _Handler:
    """Handles all signals of a block in the main thread.

    The second order ends the process here and not by the signal's default action, which process 1 of a container does
    not have.
    """

    def __init__(self, react: Callable[[str], None]) -> None:
        self._react = react
        self._orders = 0
        self.is_leaving = False
        self.late: list[int] = []  # Signals for whoever handles them after the block.

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.is_leaving:
            self.late.append(number)
            return
        self._orders += number in ORDERS
        if self._orders > 1:
            os._exit(128 + number)
        self._react(signal.Signals(number).name)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Handle signals while the block runs; only a main thread can, in others the request never comes.

    Raises:
        StoppedEarly: after a signal for which ``at_once`` is set, whatever the code that it interrupted made of it.
    """
    request = StopRequest()
    words = ""

    def react(name: str) -> None:
        nonlocal words
        is_first = not request.reason
        request.reason = request.reason or name
        if request.at_once and is_first:
            words = f"{name} {request.at_once}"
            raise StoppedEarly(words)

    with _watched(request), _handled(react):
        try:
            yield request
        except Exception as error:
            if not words or isinstance(error, StoppedEarly):
                raise
            raise StoppedEarly(words) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first signal, while the block runs and handles none itself.

    Raises:
        KeyboardInterrupt: with the signal's name, whatever the code that it interrupted made of it.
    """
    reason = ""

    def react(name: str) -> None:
        nonlocal reason
        if not reason:
            reason = name
            raise KeyboardInterrupt(name)

    with _watched(None), _handled(react):
        try:
            yield
        except Exception as error:  # Compiled code, as in the middle of an import, may turn it into another one.
            if not reason:
                raise
            raise KeyboardInterrupt(reason) from error


def end_at_once(code: int | None = None) -> None:
    """End the process at every further signal, because nothing is left to save.

    Args:
        code: exit code; None: 128 and the signal's number.
    """
    for number in (*ORDERS, *WARNINGS):
        if _is_ours_to_take(number):
            signal.signal(number, lambda number, _: os._exit(128 + number if code is None else code))


def ignore() -> None:
    """Leave signals to the parent process: those that a terminal or a scheduler sends to a whole group."""
    for number in (signal.SIGINT, *WARNINGS):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _handled(react: Callable[[str], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old_handlers = {number: signal.getsignal(number) for number in (*ORDERS, *WARNINGS) if _is_ours_to_take(number)}
    handler = _Handler(react)
    try:
        for number in old_handlers:
            signal.signal(number, handler)
        yield
    finally:
        handler.is_leaving = True
        for number, old in old_handlers.items():
            is_ours = old is None or old is early_signals.end  # None: not set by Python.
            signal.signal(number, signal.SIG_DFL if is_ours else old)
        for late in handler.late:
            os.kill(os.getpid(), late)


def _is_ours_to_take(number: signal.Signals) -> bool:
    """Return whether nobody else wants a signal: ``nohup`` ignores SIGHUP, and a notebook may use SIGUSR1 itself."""
    old = signal.getsignal(number)
    return number in ORDERS or old in (signal.SIG_DFL, early_signals.end) or isinstance(old, _Handler)


@contextlib.contextmanager
def _watched(request: StopRequest | None) -> Iterator[None]:
    """Also watch for signals on a thread.

    While the main thread waits inside a TensorFlow operation (a collective whose peer hangs), Python's handlers do not
    run, neither for the first signal nor for the second.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
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


def _watch(receiver: socket.socket, request: StopRequest | None) -> None:
    """Act on signals that the main thread does not handle, until the other end of ``receiver`` closes."""
    count = orders = 0
    while True:
        is_unhandled = request is not None and count and request.at_once and not request.reason
        if not select.select([receiver], [], [], _STUCK_SECONDS if is_unhandled else None)[0]:
            if request is not None and not request.reason:  # The main thread is stuck.
                _end(f"stopped: a signal {request.at_once}")
            continue
        numbers = receiver.recv(16)
        if not numbers:
            return
        for number in numbers:
            if not isinstance(signal.getsignal(number), _Handler):  # Somebody else's: a notebook may use SIGUSR1.
                continue
            count += 1
            orders += number in ORDERS
            if request is not None:
                request.noticed = request.noticed or signal.Signals(number).name
            if orders > 1:
                os._exit(128 + number)


def _end(words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # Without a terminal the line is lost, the exit code is not.
        print(words, file=sys.stderr, flush=True)
    os._exit(EXIT_STOPPED)
