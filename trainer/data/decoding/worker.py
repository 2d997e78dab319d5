"""A process that reads and decodes images for ``pool.py``, without the interpreter's lock of the training process.

It does what is easy: plain JPEGs that can be read at once.  It leaves out everything else, so that retries, reasons and
other formats stay in one place, the training process.  It ends with the socket to that process.
Imports no TensorFlow, but for interpolations that need it (``resample.py``).
"""

import collections
import contextlib
import dataclasses
import logging
import mmap
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from trainer.core import keras_environment, quiet_start
from trainer.data import image_files, tfrecord
from trainer.data.input_rule import Draws, InputRule
from trainer.data.pixels import Pixels

log = logging.getLogger(__name__)

ROOM_BYTES = 2**26  # Of each half of the shared memory; only pages that are used exist.

_MOST_OPEN = 64  # Files of a packed set.


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the bytes of an image lie on this machine.

    Attributes:
        path: of the file.
        offset: of the first byte.
        length: in bytes; 0: the whole file.
        crc: checksum (``tfrecord.checksum``) of a part of a file.
    """

    path: str
    offset: int = 0
    length: int = 0
    crc: int = 0


Source = Place | bytes  # bytes: the encoded image itself; empty if there is none.


@dataclasses.dataclass(frozen=True)
class Task:
    """Images that are decoded into shared memory.

    Attributes:
        sources: of the images.
        rule: how an image becomes model input.
        max_pixels: larger images are left out.
        draws: ``[N, 2]``, the places of random crops; None: the rule's own views.
        half: 0 or 1, where the ``[N, *rule.shape]`` pixels go, so that one task is read while the next is worked on.
    """

    sources: Sequence[Source]
    rule: InputRule
    max_pixels: int
    draws: Draws | None
    half: int

    def pixels(self, room: Pixels) -> Pixels:
        """Return the task's place in the shared memory ``[2 * ROOM_BYTES]``."""
        shape = (len(self.sources), *self.rule.shape)
        start = self.half * ROOM_BYTES
        return room[start : start + int(np.prod(shape))].reshape(shape)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of a task.

    Attributes:
        done: places of the images whose pixels are there.
        trouble: an error that nobody expected; empty if there was none.
    """

    done: list[int]
    trouble: str = ""


def main(socket: int, memory: int) -> None:
    """Work until the other end of the socket is closed; both arguments are descriptors."""
    for number in (signal.SIGINT, signal.SIGTERM):  # A terminal sends them to all; the training process decides.
        signal.signal(number, signal.SIG_IGN)
    # For the interpolations.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    quiet_start.install()
    room = np.frombuffer(mmap.mmap(memory, 2 * ROOM_BYTES), np.uint8)
    connection, shards = Connection(socket), Shards()
    with keras_environment.lean(), contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(work(connection.recv(), room, shards))


def work(task: Task, room: Pixels, shards: "Shards") -> Answer:
    """Decode what is easy."""
    # Late, because the training process, which imports this module, gets simplejpeg with TensorFlow.
    from trainer.data.decoding import plain

    try:
        contents = {at: shards.read(source) for at, source in enumerate(task.sources)}
        present = {at: content for at, content in contents.items() if content}
        return Answer(plain.decode(present, task.pixels(room), task.rule, task.max_pixels, task.draws))
    except Exception as error:  # The training process tries it, and shows the error if it has it too.
        return Answer([], f"{type(error).__name__}: {error}")


class Shards:
    """Reads sources, and keeps files of packed sets open."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._open: collections.OrderedDict[str, int] = collections.OrderedDict()

    def read(self, source: Source) -> bytes:
        """Return the encoded image; nothing if it cannot be read now."""
        if isinstance(source, bytes):
            return source
        try:
            if not source.length:
                return image_files.read_local(source.path, "")
            content = os.pread(self._descriptor(source.path), source.length, source.offset)
        except OSError:
            self._forget(source.path)
            return b""
        return content if tfrecord.checksum(content) == source.crc else b""

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            if len(self._open) == _MOST_OPEN:
                self._forget(next(iter(self._open)))
            self._open[path] = image_files.open_regular(path)
        self._open.move_to_end(path)
        return self._open[path]

    def _forget(self, path: str) -> None:
        if path in self._open:
            os.close(self._open.pop(path))


def command(socket: int, memory: int, paths: Sequence[str]) -> list[str]:
    """Return the words after the interpreter that start a worker with the module paths of this process."""
    code = "import sys; sys.path[:] = eval(sys.argv[3]); from trainer.data.decoding import worker; "
    code += "worker.main(int(sys.argv[1]), int(sys.argv[2]))"
    return ["-c", code, str(socket), str(memory), repr(list(paths))]


def shared_memory() -> tuple[int, Any]:
    """Return a descriptor of memory for both halves, and its pixels; /dev/shm, which containers keep small, is spared.

    Raises:
        OSError: if there is none.
    """
    descriptor = os.memfd_create("deepdetect-decoding")
    os.ftruncate(descriptor, 2 * ROOM_BYTES)
    return descriptor, np.frombuffer(mmap.mmap(descriptor, 2 * ROOM_BYTES), np.uint8)
