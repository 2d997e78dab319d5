"""Bars and lines that show that a long phase goes on; on a terminal they disappear with its end.

Without a terminal a phase of unknown length says so once in the log, after two seconds.  No colours anywhere, so
NO_COLOR has nothing to switch off.  Does not own: the training's own bar (``training/progress_bar.py``).
Imports no TensorFlow.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import tqdm

QUIET_SECONDS = 2.0  # A shorter phase shows nothing.

log = logging.getLogger(__name__)


def bar(total: int | None, unit: str, title: str = "", *, show: bool = True, initial: int = 0) -> "tqdm.tqdm[Any]":
    """Return a bar on stderr that is as wide as the terminal; it shows nothing without one, or if ``show`` is False."""
    import tqdm  # Late: most commands that answer a wrong flag need no bar.

    return tqdm.tqdm(
        total=total, desc=title or None, unit=unit, initial=initial, file=sys.stderr, leave=False, dynamic_ncols=True,
        disable=None if show else True,
    )  # fmt: skip


@contextlib.contextmanager
def phase(title: str, *, show: bool = True) -> Iterator[None]:
    """Show that the block runs, and for how long, once it takes more than two seconds.

    Args:
        title: of what is done, such as ``listing 'data/Train'``.
        show: whether this process says anything.
    """
    if not show:
        yield
        return
    ended = threading.Event()
    shows = _show_on_terminal if sys.stderr.isatty() else _log_once
    watch = threading.Thread(target=shows, args=(title, ended, sys.stderr), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _log_once(title: str, ended: threading.Event, _: TextIO) -> None:
    if not ended.wait(QUIET_SECONDS):
        log.info("%s ...", title)


def _show_on_terminal(title: str, ended: threading.Event, stream: TextIO) -> None:
    if ended.wait(QUIET_SECONDS):
        return
    import tqdm

    line = tqdm.tqdm(desc=title, file=stream, leave=False, dynamic_ncols=True, bar_format="{desc} ... {elapsed}")
    line.start_t -= QUIET_SECONDS
    with line:
        while not ended.wait(1.0):
            line.refresh()


@contextlib.contextmanager
def no_bars(stream: TextIO) -> Iterator[None]:
    """Take the bars off a stream for the block, in which something else is written to it."""
    bars: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if getattr(bars, "_instances", ()):
        with bars.external_write_mode(file=stream):
            yield
    else:
        yield
