"""Pass points on to one service from a thread, so that training neither waits for it nor fails with it.

What was sent is kept in job_dir before it is sent: a step is sent at most once, also if a kill lies between.
Imports no TensorFlow.
"""

import contextlib
import dataclasses
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from trainer.core import checked_json
from trainer.core.checked_json import COUNT, TEXT
from trainer.core.storage import files
from trainer.training.trackers.backend import Backend, Point, Run

log = logging.getLogger(__name__)

_EVERY_SECONDS = 2.0  # Points wait this long for others at most.
_MOST_WAITING = 10_000  # Windows, hours of them.
_END_SECONDS = 10.0  # That the end of a job waits for what is still to be sent.


@dataclasses.dataclass
class _Record:
    """What a service has: its run, and the last steps of both kinds of points."""

    run: str = ""
    train: int = 0
    validation: int = 0


@dataclasses.dataclass(frozen=True)
class _Part:
    """Work for the thread: points of a kind, tags, or the end."""

    kind: str = ""
    points: Sequence[Point] = ()
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    status: str = ""


class Delivery:
    """Sends to one service until that fails; then one warning, and nothing more."""

    def __init__(self, name: str, make: Callable[[], Backend], run: Run, path: str) -> None:
        """Bind a service; ``start`` begins.

        Args:
            name: of the service, for messages.
            make: returns its backend; called on the thread, as its package takes seconds to load.
            run: the job.
            path: file in job_dir for what was sent.
        """
        self._name = name
        self._make = make
        self._run = run
        self._path = path
        self._parts: queue.Queue[_Part] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._is_down = False

    def start(self) -> None:
        """Begin, or continue the job's run; again after a rollback it does nothing."""
        if not self._thread.ident:
            self._thread.start()

    def add(self, kind: str, points: Sequence[Point]) -> None:
        """Send points of a kind (train or validation) soon; those of steps that were sent before are dropped."""
        self._put(_Part(kind, points))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Send facts soon."""
        self._put(_Part(tags=tags))

    def close(self, status: str) -> None:
        """Send the end of this start, and wait a little for all that is waiting."""
        if not self._thread.ident:
            return
        self._put(_Part(status=status))
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"it did not answer within {_END_SECONDS:g} s")

    def _put(self, part: _Part) -> None:
        if self._is_down:
            return
        try:
            self._parts.put_nowait(part)
        except queue.Full:
            self._give_up("it does not answer")

    def _give_up(self, reason: str) -> None:
        self._is_down = True
        log.warning("--trackers=%s: %s; nothing is tracked from now on, training is not affected", self._name, reason)

    def _work(self) -> None:
        try:
            self._send_all()
        except Exception as error:
            if not self._is_down:
                self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _send_all(self) -> None:
        record = self._read()
        backend = self._make()
        run = backend.open(self._run, record.run)
        if run != record.run:
            record = _Record(run)
        self._write(record)
        status = ""
        while not status and not self._is_down:
            parts = self._next()
            status = next((part.status for part in parts if part.status), "")
            points = _merged([point for part in parts for point in self._new(record, part)])
            if points:
                self._write(record)  # Before they are sent: a kill in between loses them rather than doubling them.
                backend.log(points)
            for part in parts:
                if part.tags:
                    backend.tag(part.tags)
        if status:
            backend.close(status)

    def _next(self) -> list[_Part]:
        """Return what waits, once there is something and others had time to come."""
        parts = [self._parts.get()]
        end = time.monotonic() + _EVERY_SECONDS
        while not parts[-1].status:
            try:
                parts.append(self._parts.get(timeout=max(end - time.monotonic(), 0.001)))
            except queue.Empty:
                break
            if time.monotonic() >= end:
                break
        return parts

    def _new(self, record: _Record, part: _Part) -> list[Point]:
        """Return the points that were not sent before, and count them as sent."""
        if not part.kind:
            return []
        last = getattr(record, part.kind)
        points = [point for point in part.points if point.step > last]
        setattr(record, part.kind, max([last, *(point.step for point in points)]))
        return points

    def _read(self) -> _Record:
        with contextlib.suppress(FileNotFoundError, checked_json.Malformed):
            fields = {"run": TEXT, "train": COUNT, "validation": COUNT}
            values = checked_json.read(self._path, fields, remedy="")
            return _Record(**{name: values[name] for name in fields})
        return _Record()

    def _write(self, record: _Record) -> None:
        files.write_text(self._path, json.dumps(dataclasses.asdict(record)) + "\n")


def _merged(points: Sequence[Point]) -> list[Point]:
    """Return one point for each step, by step: a train line and a validation may share one."""
    by_step: dict[int, Point] = {}
    for point in points:
        before = by_step.get(point.step)
        by_step[point.step] = Point(point.step, {**before.values, **point.values}, point.time) if before else point
    return [by_step[step] for step in sorted(by_step)]
