"""What is made of trials as they end: the table on the terminal, ``trials.csv``, the best settings, a clean disk.

Runs in the process that holds the oracle.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from trainer.core.storage import files
from trainer.sweep import records
from trainer.sweep.records import Record
from trainer.sweep.request import Request
from trainer.training.progress_bar import duration

log = logging.getLogger(__name__)

_DRAW_SECONDS = 120.0


class Summary:
    """Follows a sweep."""

    def __init__(self, request: Request, oracle: Any, expected: int | None) -> None:
        """Begin before the first trial of this start.

        Args:
            request: the sweep.
            oracle: asked which trials are needed, and told of failures.
            expected: trials of the whole sweep, for the estimate of the time left; None if nobody knows.
        """
        self._request, self._oracle, self._expected = request, oracle, expected
        self._stdout = sys.stdout  # Now: while the oracle answers, what it prints goes elsewhere.
        self._started, self._drawn, self._fresh, self._headed = time.monotonic(), time.monotonic(), 0, False

    def trial_ended(self, trial: Any) -> None:
        """Take note of a trial whose record is written and whose end the oracle has saved."""
        known = records.read_all(self._request.paths)
        record = next((one for one in known if one.trial == trial.trial_id), None)
        if record is None:  # Its worker's disk failed between; the oracle knows its score.
            log.warning("trial %s left no record", trial.trial_id)
            return
        self._fresh += 1
        self._oracle.note_failure(records.kind_of(record.reason) if record.status == records.FAILED else "")
        self._write(known)
        print(self._row(record, known), file=self._stdout, flush=True)

    def _write(self, known: Sequence[Record]) -> None:
        records.write_table(self._request, known)
        records.write_best(self._request, known)
        records.prune(self._request, known, self._oracle.needed())
        if time.monotonic() - self._drawn > _DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw the page of what is there."""
        from trainer.sweep import (
            report as sweep_report,  # Drawing libraries are loaded when there is something to draw.
        )

        sweep_report.write(self._request, records.read_all(self._request.paths))
        self._drawn = time.monotonic()

    def _row(self, record: Record, known: Sequence[Record]) -> str:
        best = records.by_score(known, maximizes=self._request.maximizes)
        names = [one.name for one in self._request.space]
        widths = [max(len(name), 9) for name in names]
        head = ""
        if not self._headed:
            self._headed = True
            columns = " ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
            head = f"trial {columns} {self._request.metric:>9} {'best':>9} {'took':>7} {'left':>7}\n"
        chosen = " ".join(
            f"{_short(record.settings.get(name, '-')):>{width}}" for name, width in zip(names, widths, strict=True)
        )
        score = f"{record.score:.4f}" if record.score is not None else "failed"
        top = f"{best[0].score:.4f}" if best else "-"
        row = f"{record.trial:>5} {chosen} {score:>9} {top:>9} {duration(record.seconds):>7} {self._left(known):>7}"
        return head + row + (f"  {record.reason}" if record.reason else "")

    def _left(self, known: Sequence[Record]) -> str:
        if self._expected is None:
            return "?"
        each = (time.monotonic() - self._started) / self._fresh
        return duration(each * max(self._expected - len(known), 0))

    def finish(self) -> list[Record]:
        """Write everything once more and the file that says that the sweep is over; return the trials, best first."""
        known = records.read_all(self._request.paths)
        self._write(known)
        self.draw()
        best = records.by_score(known, maximizes=self._request.maximizes)
        content = {
            "status": "given up" if self._oracle.given_up else "done",
            "reason": self._oracle.given_up,
            "trials": len(known),
            "failed": sum(one.status == records.FAILED for one in known),
            "pruned": sum(one.status == records.PRUNED for one in known),
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
