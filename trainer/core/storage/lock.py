"""One job at a time in a job_dir, with nothing to delete by hand when it dies.

Does not own: how a storage locks (``Storage.hold``).  Imports no TensorFlow.
"""

import contextlib
from collections.abc import Iterator

from trainer.core import storage
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files


@contextlib.contextmanager
def hold(paths: JobPaths) -> Iterator[None]:
    """Hold the job_dir while the block runs; a trial of a sweep holds its own inside the sweep's.

    Raises:
        StoppedEarly: if another live process holds it; a later retry can succeed.
        RequestError: if files cannot be written there.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.for_path(paths.job_dir).hold(paths.lock, protects=paths.job_dir))
        except OSError:
            files.require_writable(paths.job_dir, "job_dir")  # Says it in the user's words.
            raise
        yield
