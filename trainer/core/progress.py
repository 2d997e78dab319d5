"""Bars and lines that show that a long phase goes on; on a terminal they disappear with its end.

Without a terminal a phase of unknown length says so once in the log, after ten seconds.  No colours anywhere, so
NO_COLOR has nothing to switch off.  Does not own: the training's own bar (``training/progress_bar.py``).
Imports no TensorFlow.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from trainer.core import terminal

if TYPE_CHECKING:
    import tqdm

QUIET_SECONDS = 2.0  # A shorter phase shows nothing on a terminal.
_LOG_SECONDS = 10.0  # Nor in a log, where nobody waits for the next line.

log = logging.getLogger(__name__)


def bar(total: int | None, unit: str, title: str = "", *, show: bool = True, initial: int = 0) -> "tqdm.tqdm[Any]":
    """Return a bar on stderr that is as wide as the terminal; it shows nothing without one, or if ``show`` is False."""
    import tqdm  # Late: most commands that answer a wrong flag need no bar.

    return tqdm.tqdm(
        total=total, desc=_short(title, 30) or None, unit=unit, initial=initial, file=sys.stderr, leave=False,
        dynamic_ncols=True, disable=None if show else True,
    )  # fmt: skip


@contextlib.contextmanager
def phase(
    title: str, *, show: bool = True, stream: TextIO | None = None, newest: Callable[[], str] | None = None
) -> Iterator[None]:
    """Show that the block runs once it takes more than two seconds, and on a terminal for how long.

    Args:
        title: of what is done, such as ``listing 'data/Train'``.
        show: whether this process says anything.
        stream: of the terminal; None: standard error.
        newest: returns what a terminal shows behind the title, asked once a second.
    """
    stream = stream or sys.stderr
    if not show:
        yield
        return
    ended = threading.Event()
    shows = _show_on_terminal if stream.isatty() else _log_once
    watch = threading.Thread(target=shows, args=(title, ended, stream, newest), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _log_once(title: str, ended: threading.Event, *_: Any) -> None:
    if not ended.wait(_LOG_SECONDS):
        log.info("%s ...", terminal.in_line(title))


def _show_on_terminal(
    title: str, ended: threading.Event, stream: TextIO, newest: Callable[[], str] | None = None
) -> None:
    if ended.wait(QUIET_SECONDS):
        return
    import tqdm

    line = tqdm.tqdm(  # The delay keeps it from being shown before its start is set.
        desc=_short(title, columns(stream) - len(" ... 0:00:00")), file=stream, leave=False, delay=1e-9,
        bar_format="{desc} ... {elapsed}",
    )  # fmt: skip
    line.start_t -= QUIET_SECONDS
    with line:
        line.refresh()
        while not ended.wait(1.0):
            if newest:
                text = f"{title}: {newest().removesuffix(' ...')}"
                line.set_description_str(text[: columns(stream) - len(" ... 0:00:00")], refresh=False)
            line.refresh()


def columns(stream: TextIO) -> int:
    """Return how wide the terminal behind a stream is; 80 if that is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def fitted(text: str, stream: TextIO) -> str:
    """Return text whose lines break between words where the terminal behind a stream ends; elsewhere as it is."""
    return terminal.wrapped(text, columns(stream)) if stream.isatty() else text


def say(text: str) -> None:
    """Print text for people on standard output; what a program may read is printed as it is instead."""
    print(fitted(terminal.visible(text), sys.stdout), flush=True)


def _short(title: str, room: int) -> str:
    """Return a title that is shown in so many columns; names of files differ at their ends."""
    text = terminal.in_line(title)
    return text if len(text) <= room else f"...{text[-max(room - 3, 1) :]}"


@contextlib.contextmanager
def no_bars(stream: TextIO) -> Iterator[None]:
    """Take the bars off a stream for the block, in which something else is written to it."""
    bars: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with bars.external_write_mode(file=stream) if bars else contextlib.nullcontext():
        yield
