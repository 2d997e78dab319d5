"""A lease's record in files, where the file system cannot lock: ``lock.1``, ``lock.2`` and so on beside ``lock``.

Each holder has a file of its own, which it alone rewrites.  A process takes over by creating the next one, which the
file system lets only one process do.  The last one stays, so that no number is used twice: a holder that wakes up after
years can only write to a file that counts no more.
Network file systems answer from a cache whether there is a file.  So each look begins with a file that is created and
removed again, after which they ask the server about the folder.
Does not own: when a holder is dead or in doubt (``lease.py``).  Imports no TensorFlow.
"""

import contextlib
import hashlib
import os
import re
import uuid

from trainer.core.storage.transient import retry

_BYTES = 1024  # Of a record: rewriting as many in place needs no room on a full disk.
_FREE = b"free"
_DIGEST_BITS = 64


class FileRecord:
    """The record of one lease; its generation is the file's number and a digest of its content."""

    def __init__(self, path: str) -> None:
        """Use ``path`` and names that begin with it."""
        self._path = path
        self._free_after = 0  # Number of the last holder, which released the lease; as ``read`` saw it.

    def read(self) -> tuple[bytes, int] | None:
        """Return the record and its generation; None if nobody holds the lease."""
        return retry(self._path, self._read)

    def _read(self) -> tuple[bytes, int] | None:
        number = self._newest()
        try:
            content = self._content(number) if number else _FREE
        except FileNotFoundError:  # Others took over meanwhile.
            return self._read()
        if content == _FREE:
            self._free_after = number
            return None
        return content, _generation(number, content)

    def take(self, content: bytes, generation: int) -> int | None:
        """Become the holder after that generation (0: after nobody); None if another process was faster."""
        return retry(self._path, lambda: self._take(content, generation))

    def _take(self, content: bytes, generation: int) -> int | None:
        number = _number(generation) if generation else self._free_after
        try:
            file = os.open(self._name(number + 1), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return None
        try:
            _write(file, content)
        except OSError:  # An empty file would have to expire.
            self._remove(number + 1)
            raise
        # The old holder may have come back between our look and our file.  It looks for a newer file after each of its
        # own writes, so at least one of us sees the other.
        if self._newest() != number + 1 or (generation and self._generation_of(number) not in (generation, 0)):
            self._remove(number + 1)
            return None
        for older in self._numbers():
            if older < number:  # Its last holder has been replaced twice.  The one just replaced may still look.
                self._remove(older)
        return _generation(number + 1, content)

    def renew(self, content: bytes, generation: int) -> int | None:
        """Rewrite the holder's own record; None if another process has taken over."""
        return retry(self._path, lambda: self._renew(content, generation))

    def _renew(self, content: bytes, generation: int) -> int | None:
        number = _number(generation)
        try:
            file = os.open(self._name(number), os.O_WRONLY)  # Not created: a removed file means a removed lock.
        except FileNotFoundError:
            return None
        _write(file, content)
        return _generation(number, content) if self._newest() == number else None

    def release(self, generation: int) -> None:
        """Let others take the lease at once."""
        self.renew(_FREE, generation)

    def _generation_of(self, number: int) -> int:
        """Return the generation of a number's file; 0 if it is free or removed."""
        try:
            content = self._content(number)
        except FileNotFoundError:
            return 0
        return 0 if content == _FREE else _generation(number, content)

    def _content(self, number: int) -> bytes:
        with open(self._name(number), "rb") as file:
            return file.read().rstrip()

    def _name(self, number: int) -> str:
        return f"{self._path}.{number}"

    def _remove(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name(number))

    def _newest(self) -> int:
        """Return the number that counts; 0 if there is none."""
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        folder, name = os.path.split(self._path)
        self._forget_what_was_cached()
        pattern = re.compile(re.escape(name) + r"\.([1-9][0-9]*)")
        return [int(match[1]) for each in os.listdir(folder or ".") if (match := pattern.fullmatch(each))]

    def _forget_what_was_cached(self) -> None:
        look = f"{self._path}.look-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):  # A full disk; the folder is then read as it is.
            os.close(os.open(look, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            os.unlink(look)


def exists(path: str) -> bool:
    """Return whether a process holds, or held until it died, a lease of this name."""
    return FileRecord(path).read() is not None


def _write(file: int, content: bytes) -> None:
    """Write a record to an open file, flush it to disk, and close it."""
    try:
        os.pwrite(file, content.rstrip().ljust(_BYTES - 1) + b"\n", 0)
        os.fsync(file)
    finally:
        os.close(file)


def _generation(number: int, content: bytes) -> int:
    digest = hashlib.blake2b(content.rstrip(), digest_size=_DIGEST_BITS // 8).digest()
    return number << _DIGEST_BITS | int.from_bytes(digest, "big")


def _number(generation: int) -> int:
    return generation >> _DIGEST_BITS
