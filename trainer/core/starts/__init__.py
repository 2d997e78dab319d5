"""Starts of a job's processes: how each one began and ended, and in pods its log, in files that outlive it.

A command says ``watch`` when it begins; the job says ``bind`` once it knows its folder.  Without ``watch``, as in a
notebook, nothing is written.
Owns: whether this process or a supervisor above it writes.  Imports no TensorFlow.
"""

import os
import re

from trainer.core.starts import supervisor
from trainer.core.starts.recorder import Recorder


class _Watch:
    """What watches this process."""

    is_on = False
    job_dir = ""
    words = ""
    recorder: Recorder | None = None
    parent: int | None = None  # Descriptor to the supervisor.


def watch(*, as_json: bool) -> None:
    """Begin; in a pod go on in a child process, whose parent passes on its output.

    Args:
        as_json: whether the log consists of JSON lines.
    """
    _Watch.is_on = True
    if supervisor.is_wanted(os.environ):
        _Watch.parent = supervisor.enter(as_json=as_json)


def bind(job_dir: str, process: str) -> None:
    """Say which job this process is of; the first one counts, that of a sweep before those of its trials."""
    if not _Watch.is_on or _Watch.job_dir:
        return
    _Watch.job_dir = job_dir
    name = re.sub(r"[^A-Za-z0-9_-]", "-", process)
    if _Watch.parent is None:
        _Watch.recorder = Recorder(job_dir, name)
    else:
        supervisor.tell(_Watch.parent, job_dir=job_dir, process=name)


def note_step(job_dir: str, step: int) -> None:
    """Say where a job goes on."""
    if job_dir != _Watch.job_dir:
        return
    if _Watch.recorder is not None:
        _Watch.recorder.note_step(step)
    elif _Watch.parent is not None:
        supervisor.tell(_Watch.parent, step=step)


def note_words(line: str) -> None:
    """Remember the line with which the process ends."""
    _Watch.words = line


def end(code: int, words: str = "") -> None:
    """Record the end of this process, which is near; a supervisor does it by itself."""
    if _Watch.recorder is not None:
        _Watch.recorder.end(code, words=words or _Watch.words)
