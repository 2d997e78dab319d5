"""Processes that read and decode images for this one.

Python's threads take turns at the interpreter's lock.  Two cores do not feel it; on 16 of a virtual machine, handing it
over took so long that all cores together decoded little more than one of them could.
A thread that needs images takes a worker, gives it pieces, and copies the pixels out of shared memory.  What a worker
leaves out, and all that a dead one had, the caller does itself, so the pool changes nothing but the speed.
Owns: the processes.  Does not own: what a worker does (``worker.py``).  Imports no TensorFlow.
"""

import atexit
import dataclasses
import functools
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

import joblib

from trainer.data.decoding import worker
from trainer.data.decoding.worker import Source, Task
from trainer.data.input_rule import Draws, InputRule
from trainer.data.pixels import Pixels

log = logging.getLogger(__name__)

FEW_CORES = 4  # Up to so many, threads alone keep them busy.
LEAST = 16  # Images that are worth a request.
_PIECE = 32  # Images of a task: some milliseconds of work, whose pixels stay in a cache.


def automatic() -> int:
    """Return the number of processes that pay on this machine: one for each core; 1, this one, for a few cores."""
    cores = int(joblib.cpu_count())
    return cores if cores > FEW_CORES else 1


@functools.cache
def shared(most: int) -> "DecodePool":
    """Return the pool of this process with at most so many workers."""
    return DecodePool(most)


@dataclasses.dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    connection: Connection
    room: Pixels

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class DecodePool:
    """Starts a worker whenever all are busy, up to a number of them; safe to use from several threads."""

    def __init__(self, most: int) -> None:
        """Start no process yet."""
        self._most = most
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._changed = threading.Condition()  # Of the three above.
        self._troubles: set[str] = set()
        atexit.register(self.close)

    @property
    def processes(self) -> list[int]:
        """Their process numbers."""
        return [one.process.pid for one in self._workers]

    def load(
        self, sources: Sequence[Source], rule: InputRule, max_pixels: int, draws: Draws | None, images: Pixels
    ) -> list[int]:
        """Decode images into ``images [N, *rule.shape]``, and return the places of those that the caller must decode.

        Args:
            sources: where the encoded images are.
            rule: how an image becomes model input.
            max_pixels: larger images are left to the caller.
            draws: ``[N, 2]``, the places of random crops; None: the rule's own views.
            images: what is left to the caller is undefined there.
        """
        one = self._take() if math.prod(rule.shape) <= worker.ROOM_BYTES else None
        missing = set(range(len(sources)))
        if one is None:
            return sorted(missing)
        try:
            for places in self._work(one, sources, rule, max_pixels, draws, images):
                missing.difference_update(places)
        except (EOFError, OSError):
            self._bury(one)
        else:
            self._give_back(one)
        return sorted(missing)

    def _work(
        self, one: _Worker, sources: Sequence[Source], rule: InputRule, max_pixels: int, draws: Draws | None,
        images: Pixels,
    ) -> Iterator[list[int]]:  # fmt: skip
        """Yield places that are done, piece by piece; the worker always has the next piece before it needs one."""
        step = min(_PIECE, worker.ROOM_BYTES // math.prod(rule.shape))
        waiting: list[tuple[int, Task]] = []
        for number, start in enumerate(range(0, len(sources), step)):
            piece = slice(start, start + step)
            task = Task(sources[piece], rule, max_pixels, None if draws is None else draws[piece], number % 2)
            one.connection.send(task)
            waiting.append((start, task))
            if len(waiting) == 2:
                yield self._finish(one, *waiting.pop(0), images)
        for start, task in waiting:
            yield self._finish(one, start, task, images)

    def _finish(self, one: _Worker, start: int, task: Task, images: Pixels) -> list[int]:
        """Wait for the oldest task, copy its pixels, and return the places that are done."""
        answer: worker.Answer = one.connection.recv()
        if answer.trouble and answer.trouble not in self._troubles:
            self._troubles.add(answer.trouble)
            log.warning("a decoding process failed, and this one does its work: %s", answer.trouble)
        images[start : start + len(task.sources)] = task.pixels(one.room)
        return [start + at for at in answer.done]

    def _take(self) -> _Worker | None:
        """Return a worker that is the caller's until it is given back; None if there will be none."""
        with self._changed:
            while not self._idle:
                if len(self._workers) < self._most:
                    self._start_one()
                elif self._workers:
                    self._changed.wait()
                else:
                    return None
            return self._idle.pop()

    def _start_one(self) -> None:
        try:
            one = _started()
        except OSError as error:
            log.warning("no further decoding process can be started: %s", error)
            self._most = len(self._workers)
            return
        self._workers.append(one)
        self._idle.append(one)

    def _give_back(self, one: _Worker) -> None:
        with self._changed:
            self._idle.append(one)
            self._changed.notify()

    def _bury(self, one: _Worker) -> None:
        """Forget a worker that died.

        It is not replaced: what killed it, such as a lack of memory, may still be there.
        """
        one.close()
        with self._changed:
            if one in self._workers:  # Else the pool was closed.
                self._workers.remove(one)
                self._most = len(self._workers)
                log.warning("a decoding process ended with code %s; %d are left", one.process.returncode, self._most)
            self._changed.notify_all()

    def close(self) -> None:
        """End all workers."""
        with self._changed:
            workers, self._workers, self._idle, self._most = self._workers, [], [], 0
            self._changed.notify_all()
        for one in workers:
            one.close()


def _started() -> _Worker:
    """Start a worker.

    Raises:
        OSError: if that is impossible.
    """
    ours, theirs = multiprocessing.Pipe()
    memory, room = worker.shared_memory()
    try:
        words = [sys.executable, *worker.command(theirs.fileno(), memory, sys.path)]
        # A session of its own: a terminal's Ctrl-C is the training process's to answer.
        process = subprocess.Popen(
            words, pass_fds=[theirs.fileno(), memory], stdin=subprocess.DEVNULL, start_new_session=True
        )
    finally:
        theirs.close()
        os.close(memory)
    return _Worker(process, ours, room)
