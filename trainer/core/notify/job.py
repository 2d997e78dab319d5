"""Tell how the job of this process ended: done, or failed.

A stop that asks to be started again (exit codes 75 and 76) is no end.  A job that was done before tells nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence

from trainer.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_REQUEST, RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths, SweepPaths
from trainer.core.notify import send
from trainer.core.notify.message import DONE, FAILED, End
from trainer.core.storage import files, transient


@contextlib.contextmanager
def telling(targets: Sequence[str], job_dir: str) -> Iterator[None]:
    """Tell how the block ended, which runs the job in a folder."""
    if not targets:
        yield
        return
    before = _results(job_dir)
    name = job_dir.rstrip("/").rpartition("/")[2]
    try:
        yield
    except StoppedEarly:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) and transient.is_transient(error)):
            code = EXIT_REQUEST if isinstance(error, RequestError) else EXIT_FAILED
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            send.tell(targets, End(name, FAILED, code, job_dir, reason))
        raise
    if before is None or _results(job_dir) != before:
        send.tell(targets, End(name, DONE, EXIT_DONE, job_dir))


def _results(job_dir: str) -> list[str] | None:
    """Return what the folder holds of ends; None if it cannot be read, which is for the job itself to say."""
    paths = (JobPaths(job_dir).result, SweepPaths(job_dir).done)
    try:
        return [files.read_text(path) if files.exists(path) else "" for path in paths]
    except Exception:
        return None
