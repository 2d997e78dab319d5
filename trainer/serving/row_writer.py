"""Rows of a prediction, written as they come: after a kill the file holds all whole batches.

Does not own: the form of a table (``tables.py``).
"""

import os
import sys
from collections.abc import Sequence

from trainer.core import progress, streams, tables
from trainer.core.storage import files
from trainer.core.tables import Row


class RowWriter:
    """Writes rows to a file, or as a table to standard output.

    An object in a bucket cannot grow, so ``finish`` writes it.
    """

    def __init__(self, out: str, flag: str) -> None:
        """Open nothing yet: a file that is there stays as it is until the first rows come.

        Args:
            out: file to write, .csv or .jsonl; empty: standard output.
            flag: that names the file, for messages.
        """
        self.rows: list[Row] = []
        self._out = out
        self._render = tables.renderer(out, flag)
        self._is_csv = os.path.splitext(out)[1].lower() == ".csv"
        self._table = tables.Table()
        self._grows = not files.is_remote(out)
        self._written = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Write some more rows."""
        self.rows += rows
        if self._grows and rows:
            self._write()

    def finish(self, *, is_interrupted: bool = False) -> None:
        """Write what is not written yet.

        Args:
            is_interrupted: whether the last rows may be written in part.

        Raises:
            JobFailed: if standard output does not take it.
        """
        if self._out and is_interrupted:
            self._written = 0
        self._write()
        if not self._out:
            streams.require_printed()

    def _write(self) -> None:
        rows, self._written = self.rows[self._written :], len(self.rows)
        if rows and not self._out:
            # In one piece, and around a progress bar on the same terminal.
            with progress.no_bars(sys.stdout):
                sys.stdout.write(self._table.part(rows))
                sys.stdout.flush()
        elif rows and len(rows) == len(self.rows):  # The first ones: replace an older file.
            files.write_text(self._out, self._render(rows))
        elif rows:
            text = tables.to_csv(rows, header=False) if self._is_csv else self._render(rows)
            files.append_text(self._out, text)
