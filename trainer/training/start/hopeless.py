"""Starts that would only end as those before did: out of memory at the same step, or in a crash again and again.

Does not own: starts without progress (``resume.py``), what is known of how starts ended (``core/starts``).
Imports no TensorFlow.
"""

import collections
import datetime
from collections.abc import Iterable

from trainer.core import environment
from trainer.core.errors import EXIT_DONE, EXIT_REQUEST, EXIT_STOPPED, JobFailed, RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.starts import record
from trainer.core.starts.record import Start

_AN_HOUR = datetime.timedelta(hours=1)
_MOST = 15  # Crashes in an hour.
_NO_CRASH = (EXIT_DONE, EXIT_STOPPED, EXIT_REQUEST)


def refuse(paths: JobPaths, step: int) -> None:
    """Refuse a start from a step (0: the beginning) that cannot go better than those before; the chief calls this.

    Raises:
        RequestError: if a process ran out of memory twice from there, and has no more of it now.
        JobFailed: the same outside of pods; or after too many crashes in an hour.
    """
    by_process: dict[str, list[Start]] = collections.defaultdict(list)
    for start in record.recent(paths.job_dir, _AN_HOUR):
        by_process[start.process].append(start)
    for process, starts in sorted(by_process.items()):
        _require_memory(process, starts, step)
        _require_fewer_crashes(process, starts)


def _require_memory(process: str, starts: list[Start], step: int) -> None:
    last = [start for start in starts if start.is_over][-2:]
    if len(last) < 2 or not all(start.ran_out_of_memory and start.step == step for start in last):
        return
    limit = last[-1].memory.limit
    if not starts[-1].is_over and starts[-1].memory.limit > limit > 0:
        return
    size = f"{limit / 2**30:.1f} GiB" if limit else "the machine has"
    line = (
        f"expected more memory than {size}: {process} ran out of it twice from step {step}; give it more (submit.py "
        "run --memory=..., or another machine), or take less: --cache=none, fewer --decode_processes, a smaller "
        "--batch_size"
    )
    # Elsewhere others share the limit, and may leave more of it next time.
    raise RequestError(line) if limit and environment.is_pod() else JobFailed(line)


def _require_fewer_crashes(process: str, starts: Iterable[Start]) -> None:
    since = (datetime.datetime.now(datetime.UTC) - _AN_HOUR).isoformat()
    crashes = [start for start in starts if start.began >= since and _is_crash(start)]
    if len(crashes) >= _MOST:
        raise JobFailed(
            f"{process} ended {len(crashes)} times within an hour as it should not, last: {crashes[-1].line()}; "
            "read the logs of these starts, repair the cause, then start once with --max_restarts_without_progress=0"
        )


def _is_crash(start: Start) -> bool:
    """Return whether a start is known to have gone wrong; one that vanished may have been on a node that was lost."""
    return start.ran_out_of_memory or (start.end is not None and start.end.code not in _NO_CRASH)
