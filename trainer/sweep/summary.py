"""Outputs of a sweep, updated as trials end: the table on the terminal, ``trials.csv``, the best settings, the report.

Runs in the process that holds the oracle.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from trainer.core import progress
from trainer.core.storage import files
from trainer.sweep import records
from trainer.sweep.records import Record
from trainer.sweep.request import Request
from trainer.training.start.time_left import duration

log = logging.getLogger(__name__)

_DRAW_SECONDS = 120.0


class Summary:
    """Updates the outputs of a sweep whenever a trial ends."""

    def __init__(self, request: Request, oracle: Any, expected: int | None) -> None:
        """Create it before the first trial of this start.

        Args:
            request: the sweep.
            oracle: says which trials are needed, and counts failures.
            expected: trials of the whole sweep, for the estimate of the time left; None if unknown.
        """
        self._request = request
        self._oracle = oracle
        self._expected = expected
        self._stdout = sys.stdout  # Kept now: stdout is redirected while the oracle is called.
        self._started = time.monotonic()
        self._drawn = self._started
        self._ended_here = 0  # Trials that ended since this start.
        self._has_header = False

    def trial_ended(self, trial: Any) -> None:
        """Update all outputs after a trial whose record is written and whose end the oracle has saved."""
        ended = records.read_all(self._request.paths)
        record = next((one for one in ended if one.trial == trial.trial_id), None)
        if record is None:  # Its worker's disk failed in between; the oracle knows its score.
            log.warning("trial %s left no record", trial.trial_id)
            return
        self._ended_here += 1
        self._oracle.note_failure(records.kind_of(record.reason) if record.status == records.FAILED else "")
        self._write(ended)
        print(self._row(record, ended), file=self._stdout, flush=True)

    def _write(self, ended: Sequence[Record]) -> None:
        records.write_table(self._request, ended)
        records.write_best(self._request, ended)
        records.prune(self._request, ended, self._oracle.needed())
        if time.monotonic() - self._drawn > _DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Write the report of all ended trials."""
        from trainer.sweep import report as sweep_report  # Late: its drawing libraries are slow to import.

        sweep_report.write(self._request, records.read_all(self._request.paths))
        self._drawn = time.monotonic()

    def _row(self, record: Record, ended: Sequence[Record]) -> str:
        best = records.by_score(ended, maximizes=self._request.maximizes)
        names = [one.name for one in self._request.space]
        widths = [max(len(name), 9) for name in names]
        wide = max(len(self._request.metric), 7)
        head = ""
        if not self._has_header:
            self._has_header = True
            columns = " ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
            head = f"trial {columns} {self._request.metric:>{wide}} {'best':>7} {'took':>6} {'left':>6}\n"
        chosen = " ".join(
            f"{_short(record.settings.get(name, '-')):>{width}}" for name, width in zip(names, widths, strict=True)
        )
        score = f"{record.score:.4f}" if record.score is not None else "failed"
        top = f"{best[0].score:.4f}" if best else "-"
        took, left = duration(record.seconds), self._left(ended)
        row = f"{record.trial:>5} {chosen} {score:>{wide}} {top:>7} {took:>6} {left:>6}"
        return head + progress.fitted(row + (f"  {record.reason}" if record.reason else ""), self._stdout)

    def _left(self, ended: Sequence[Record]) -> str:
        if self._expected is None:
            return "?"
        each = (time.monotonic() - self._started) / self._ended_here
        return duration(each * max(self._expected - len(ended), 0))

    def finish(self) -> list[Record]:
        """Write all outputs, then ``sweep_result.json``, which marks the end; return the trials, best first."""
        ended = records.read_all(self._request.paths)
        self._write(ended)
        self.draw()
        best = records.by_score(ended, maximizes=self._request.maximizes)
        content = {
            "status": "given up" if self._oracle.given_up else "done",
            "reason": self._oracle.given_up,
            "trials": len(ended),
            "failed": sum(one.status == records.FAILED for one in ended),
            "pruned": sum(one.status == records.PRUNED for one in ended),
            "best_trial": best[0].trial if best else None,
            "best_score": best[0].score if best else None,
            "objective": self._request.metric,
            "max_trials": self._request.max_trials,
        }
        files.write_text(self._request.paths.done, json.dumps(content, indent=1) + "\n")
        return best


def _short(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.3g}"
    return str(value)
