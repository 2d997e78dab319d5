"""Show the logs of a run, which are files that login nodes share, until it ends."""

import sys
import time
from pathlib import Path

from trainer.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_REQUEST, JobFailed
from trainer.submit import states
from trainer.submit.slurm import records, runs
from trainer.submit.slurm.records import Record

_PAUSE_SECONDS = 2.0  # squeue costs the controller some work; every user's counts.
_ATTEMPTS = 60  # Without an answer of Slurm, before giving up.


def show(record: Record) -> None:
    """Write the current logs."""
    _Reader(record).write_new(last=True)


def follow(name: str) -> int:
    """Write the logs until the run ends.

    Returns:
        An exit code: 0 done, 2 the trainer refused the request, 1 failed in another way, or was cancelled.

    Raises:
        JobFailed: if Slurm does not answer for long.
    """
    reader = _Reader(records.read(name))
    written, failures = "", 0
    while True:
        try:
            run, _ = runs.find(name)
            failures = 0
        except JobFailed as error:
            failures += 1
            if failures == _ATTEMPTS:
                raise JobFailed(f"{error}; the run continues: logs {name} -f --platform=slurm") from error
            time.sleep(_PAUSE_SECONDS)
            continue
        reader.write_new(last=not run.is_live)
        news = f"{name}: {run.state}{f', {run.detail}' if run.detail else ''}"
        if news != written:
            print(news, flush=True)
            written = news
        if not run.is_live:
            runs.note_end(run)
            return exit_code(run)
        time.sleep(_PAUSE_SECONDS)


def exit_code(run: states.Run) -> int:
    """Return the exit code that tells how a run ended."""
    if run.state == states.DONE:
        return EXIT_DONE
    return EXIT_REQUEST if f"exit code {EXIT_REQUEST}" in run.detail.split("; ") else EXIT_FAILED


class _Reader:
    """The lines of all logs of a run, each once."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._places: dict[Path, int] = {}

    def write_new(self, *, last: bool) -> None:
        """Write the whole lines that were added; at the end also one that is not whole."""
        for path in runs.logs(self._record):
            with path.open("rb") as file:
                file.seek(self._places.get(path, 0))
                text = file.read()
            text = text if last else text[: text.rfind(b"\n") + 1]
            self._places[path] = self._places.get(path, 0) + len(text)
            for line in text.decode(errors="replace").splitlines():
                print(self._prefix(path) + line)
        sys.stdout.flush()

    def _prefix(self, path: Path) -> str:
        return f"[{path.stem.rpartition('_')[2]}] " if self._record.tasks > 1 else ""
