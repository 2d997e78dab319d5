"""How reading scales with threads: ``benchmark.py input --threads=1,2,4``, and what limits it.

Threads in one process wait for the interpreter's lock, and for the kernel when it hands out memory.
"""

import dataclasses
import resource
import threading
import time
from collections.abc import Callable
from types import TracebackType

_ASK_SECONDS = 0.001
_HEADER = ("threads", "images/s", "of the first", "CPU-ms", "system", "page faults", "lock held", "lock us")


@dataclasses.dataclass
class Usage:
    """What the block cost: seconds, CPU seconds (user and system), page faults, and how often the lock was held.

    A thread asks for the interpreter's lock every millisecond.  If it has to wait, that costs it one more voluntary
    switch than its sleep did.  So ``held`` is the share of time that the lock is held, whether its holder runs or
    waits for a core; on a machine with other work it is too high.
    """

    seconds: float = 0.0
    user: float = 0.0
    system: float = 0.0
    faults: int = 0
    held: float = 0.0

    def __enter__(self) -> "Usage":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="lock")
        self._before, self._began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        before, after = self._before, resource.getrusage(resource.RUSAGE_SELF)
        self.user, self.system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        self.faults = after.ru_minflt - before.ru_minflt
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        asked = waited = 0
        switches = _switches()
        while not self._stop.is_set():
            time.sleep(_ASK_SECONDS)
            before, switches = switches, _switches()
            asked, waited = asked + 1, waited + (switches - before > 1)
        self.held = waited / max(asked, 1)


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def print_scaling(ways: dict[str, Callable[[int], Callable[[], object]]], threads: list[int], rounds: int) -> None:
    """Print a table for each way, which a number of threads makes a function that returns how many images it read.

    Args:
        ways: by name.
        threads: numbers of threads; they are measured in turn, round after round, and the best round counts.
        rounds: of each number.
    """
    for name, make in ways.items():
        running = {count: make(count) for count in threads}
        best: dict[int, tuple[Usage, int]] = {}
        for read in running.values():  # Fills caches and the memory that is used again.
            read()
        for count, read in [*running.items()] * rounds:
            with Usage() as usage:
                images = read()
            assert isinstance(images, int)
            if count not in best or usage.seconds / images < best[count][0].seconds / best[count][1]:
                best[count] = usage, images
        print(f"\n{name}; an image costs:\n" + "".join(f"{word:>13}" for word in _HEADER))
        first, number = best[threads[0]]
        for count, (usage, images) in best.items():
            print(_row(count, usage, images, number / first.seconds))


def _row(threads: int, usage: Usage, images: int, first: float) -> str:
    speed = images / usage.seconds
    cells = (
        f"{threads}", f"{speed:.0f}", f"{speed / first:.2f} x", f"{1e3 * (usage.user + usage.system) / images:.3f}",
        f"{1e3 * usage.system / images:.3f}", f"{usage.faults / images:.1f}", f"{usage.held:.1%}",
        f"{1e6 * usage.held / speed:.1f}",
    )  # fmt: skip
    return "".join(f"{cell:>13}" for cell in cells)
