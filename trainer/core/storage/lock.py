"""One job at a time in a job_dir, with nothing to delete by hand when it dies.

Does not own: how a storage locks (``Storage.hold``).  Imports no TensorFlow.
"""

import contextlib

from trainer.core import storage
from trainer.core.job_dir import JobPaths


def hold(paths: JobPaths) -> contextlib.AbstractContextManager[None]:
    """Hold the job_dir while the block runs; a trial of a sweep holds its own inside the sweep's.

    Raises:
        StoppedEarly: if another live process holds it; a later retry can succeed.
    """
    return storage.for_path(paths.job_dir).hold(paths.lock, protects=paths.job_dir)
