"""One job at a time in a job_dir, with nothing to delete by hand when it dies.

On a local path the operating system holds the lock and drops it when the process dies: the file stays, the lock does
not.  On gs:// it is a lease (``lease.py``), and no object is written unless it is still ours; inside a sweep's, a trial
holds its own as well, and no object is written unless both are.
Imports no TensorFlow.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from trainer.core.errors import StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, gcs_client
from trainer.core.storage.lease import Lease


@contextlib.contextmanager
def hold(paths: JobPaths) -> Iterator[None]:
    """Hold the job_dir while the block runs.

    Raises:
        StoppedEarly: if another live process holds it; a later retry can succeed.
    """
    with _lease(paths) if files.is_remote(paths.job_dir) else _file_lock(paths):
        yield


@contextlib.contextmanager
def _lease(paths: JobPaths) -> Iterator[None]:
    lease = Lease(paths.lock, protects=paths.job_dir)
    lease.take()
    outer = gcs_client.before_write  # Of the sweep whose trial this is.

    def check() -> None:
        if outer is not None:
            outer()
        lease.check()

    gcs_client.before_write = check
    try:
        yield
    finally:
        gcs_client.before_write = outer
        lease.release()


@contextlib.contextmanager
def _file_lock(paths: JobPaths) -> Iterator[None]:
    with open(paths.lock, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StoppedEarly(
                f"expected {paths.job_dir!r} to be free, found a live job in it ({file.read().strip() or 'unknown'}); "
                "stop that one, wait for it, or use another --job_dir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
