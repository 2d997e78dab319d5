"""Work on all cores in processes that end with their parent.

Owns: how the processes start and end, and the order of results.  Does not own: the work.  Imports no TensorFlow.
"""

import ctypes
import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import joblib

from trainer.core import quiet_start, signals
from trainer.core.errors import JobFailed

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def _nothing() -> None: ...


def ordered_map(
    work: Callable[[_Item], _Result], items: Sequence[_Item], workers: int, *, remedy: str,
    prepare: Callable[[], object] = _nothing,
) -> Iterator[_Result]:  # fmt: skip
    """Yield the result of each item, in order.

    Args:
        work: can be pickled, as the items and results.
        items: of the work.
        workers: processes; 0: one per core.  For one process or item, the work is done here.
        remedy: what to do if memory runs out, such as "use fewer --workers".
        prepare: called once in each process.

    Raises:
        JobFailed: if the operating system kills a worker, as it does when memory runs out.
    """
    workers = min(workers or joblib.cpu_count(), len(items))
    if workers <= 1:
        yield from map(work, items)
        return
    # Spawned, because a fork of a process with threads (TensorFlow's, a test's) can hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=functools.partial(_begin, prepare))
    try:
        yield from pool.map(work, items)
    except (BrokenProcessPool, MemoryError) as error:
        raise JobFailed(
            f"expected the worker processes to live, received the end of one, probably for lack of memory; {remedy}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(prepare: Callable[[], object]) -> None:
    """Leave signals to the parent, and end with it: nobody would take the next task from a worker's queue."""
    signals.ignore()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG.
    quiet_start.install()
    prepare()
