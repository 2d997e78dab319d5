"""``--batch_size=auto``: the largest batch that fits into memory, found by real train steps in a child process.

The child runs this very job, in a folder of its own, for a few steps with one size after the other.  Running out of
memory ends the child at worst.  On a CPU it is not led there: the memory of the next size is extrapolated from those
before, and sizes that bring no more images per second are not tried.
Owns: the search.  Does not own: the child's steps (``probe.py``), when it is made (``settle.py``).  Imports no
TensorFlow.
"""

import contextlib
import dataclasses
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

from trainer.core import config as config_lib
from trainer.core.config import Config, DataConfig, Value
from trainer.core.errors import EXIT_REQUEST, EXIT_STOPPED, JobFailed, RequestError, StoppedEarly
from trainer.data import cache
from trainer.data.manifest import Split

log = logging.getLogger("trainer.train")

MEMORY_VARIABLE = "DEEPDETECT_BATCH_MEMORY"  # Bytes that the process may use; for tests and shared machines.

_MOST = 1024  # Images; larger batches need another learning rate at the least (Goyal et al. 2017, arXiv:1706.02677).
_FIRST = 8  # Images on each device.
_DEFAULT = DataConfig().batch_size  # Up to here, more images are worth it even if they are not faster.
STEPS = 4  # The first one also compiles.
_FASTER = 1.05  # Times as many images per second as with half the batch, or a CPU has enough.
_SECONDS = 100.0  # For the whole search, unless the first size takes longer.
_FIRST_SECONDS = 600.0  # For the first size: a large network on a slow machine.
_SHARE = 0.8  # Of the free memory: validation and export need some, too.
_MARGIN = 1.2  # On the extrapolated growth.
_SPARE = 8  # On a GPU, an eighth more than the choice must fit.

# Settings of the child's job: what costs time or memory without a bearing on the size, or hides what is needed later.
_OWN: dict[str, Value] = {
    "epochs": 1, "steps_per_epoch": STEPS, "export": "none", "cache": "none", "data_service": "", "profile_steps": "",
    "tensorboard": "scalars", "max_seconds": 0.0, "resume": "auto", "checkpoint_every_steps": 0,
    "checkpoint_every_seconds": 0.0, "freeze_backbone_epochs": 0,
}  # fmt: skip
_CHILD = "from trainer.core import cli; from trainer.training.batch_size import probe; cli.console(probe.serve)"


class _DoesNotFit(Exception):
    """A size cannot be trained on this machine; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What a child found out: images of the batch (0: before the first), images per second, peak memory in bytes."""

    size: int
    speed: float
    peak: int


def choose(config: Config, train: Split, processes: int = 1) -> int:
    """Return the global batch for a new job; takes up to two minutes.

    Args:
        config: of the job.
        train: its training images.
        processes: that train together; each is taken to be like this one.

    Raises:
        RequestError: if the job is refused with any size.
        JobFailed: if no size fits.
        StoppedEarly: on a stop request, or if the storage is away.
    """
    most = max(min(_MOST, len(train)) // processes, 1)
    log.info("--batch_size=auto: trying train steps with batches of up to %d images, for %d s at most", most, _SECONDS)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batch-size-"))
        probe = stack.enter_context(contextlib.closing(_Probe(config, folder)))
        size, why = _search(probe, most, _budget(config))
    log.info("--batch_size=auto: %d images, as %s; the job keeps it", size * processes, why)
    return size * processes


def _budget(config: Config) -> int:
    """Return the bytes of host memory that the job may use."""
    text = os.environ.get(MEMORY_VARIABLE, "")
    if text and not text.isdecimal():
        raise RequestError(f"{MEMORY_VARIABLE}: expected a number of bytes, received {text!r}; correct or unset it")
    free = int(text) if text else int(_SHARE * cache.free_memory())
    in_memory = config.data.cache == cache.MEMORY
    return max(free - (config.data.cache_bytes or free // 2) if in_memory else free, 0)


def _search(probe: "_Probe", most: int, budget: int) -> tuple[int, str]:
    """Return the images of a batch of one process, at most ``most``, and why not more; see ``choose``."""
    try:
        return _Search(probe, most, budget).run()
    except _DoesNotFit as problem:
        raise JobFailed(
            f"--batch_size=auto: expected a batch that fits into memory, but {problem}; free memory, lower "
            "--image_size, or give a number"
        ) from problem


class _Search:
    """Tries one size after the other and remembers the largest that is worth it."""

    def __init__(self, probe: "_Probe", most: int, budget: int) -> None:
        self._probe = probe
        self._most = most
        self._budget = budget
        self._measured = [_Measured(0, 0.0, probe.start())]
        self._refusal: RequestError | None = None

    def run(self) -> tuple[int, str]:
        """Return the images of a batch, and why not more."""
        devices = self._probe.devices
        powers = [devices * 2**power for power in range(_MOST.bit_length())]
        sizes = [size for size in powers if size <= self._most] or powers[:1]
        first = next((place for place, size in enumerate(sizes) if size >= _FIRST * devices), len(sizes) - 1)
        why = self._try(sizes[first:])
        if not self._best.size:  # Then smaller ones, as far as they go.
            for size in reversed(sizes[:first]):
                self._measured = self._measured[:1]
                if not (reason := self._try([size])) or self._best.size:
                    break
                why = reason
        if not self._best.size:
            raise self._refusal or _DoesNotFit(why)
        return self._with_spare(why or f"no more than {self._most} images are tried, nor than Train has")

    @property
    def _best(self) -> _Measured:
        return self._measured[-1]

    def _try(self, sizes: Sequence[int]) -> str:
        """Measure growing sizes until one is not worth it; return why that is, empty if all are."""
        for size in sizes:
            needed = self._needed(size)
            if needed > self._budget:
                free = f"{self._budget / 1e9:.1f}"
                return f"{size} would need about {needed / 1e9:.1f} GB of memory, of which {free} are free"
            try:
                measured = self._probe.measure(size)
            except _DoesNotFit as problem:
                return f"{size} did not work ({problem})"
            except RequestError as refusal:  # Some networks refuse small batches.
                self._refusal = self._refusal or refusal
                continue
            log.info("--batch_size=auto: %d images: %.0f images/s, %.1f GB", size, measured.speed, measured.peak / 1e9)
            enough = self._probe.kind == "CPU" and size > _DEFAULT and measured.speed < _FASTER * self._best.speed
            if enough:
                return f"{size} brought no more images per second"
            self._measured.append(measured)
        return ""

    def _needed(self, size: int) -> int:
        """Return the memory that a size will need, by the growth so far."""
        last = self._best
        if not last.size:
            return last.peak
        before = self._measured[-2]
        growth = max(last.peak - before.peak, 0) / (last.size - before.size)
        return last.peak + int(_MARGIN * growth * (size - last.size))

    def _with_spare(self, why: str) -> tuple[int, str]:
        """Return the choice on a GPU only if a bit more fits as well, else half of it."""
        size, devices = self._best.size, self._probe.devices
        more = -(-size * (_SPARE + 1) // (_SPARE * devices)) * devices
        if self._probe.kind == "CPU" or size == devices:
            return size, why
        try:
            self._probe.measure(more)
        except _DoesNotFit as problem:
            return size // 2, f"{size} left too little memory to spare ({problem})"
        return size, why


class _Probe:
    """The child process, started again when it has died.

    Attributes:
        devices: that it trains on.
        kind: CPU or GPU.
    """

    def __init__(self, config: Config, folder: str) -> None:
        own = {name: value for name, value in _OWN.items() if name in config_lib.settings()}
        strategy = {"multi_worker": "auto"}.get(config.runtime.strategy, config.runtime.strategy)
        self._config = config.replace(**own, strategy=strategy)
        self._folder = folder
        self._started = time.monotonic()
        self._deadline = self._started + _FIRST_SECONDS
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.devices = 1
        self.kind = ""

    def start(self) -> int:
        """Start a child, and return its memory in bytes before the first step."""
        self.close()
        with open(self._errors, "w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                process_group=0,
            )  # fmt: skip
        self._answers = queue.SimpleQueue()
        threading.Thread(target=_pass_on, args=(self._process, self._answers), daemon=True).start()
        hello = self._ask({"settings": self._config.flat(), "folder": self._folder})
        self.devices, self.kind = hello["devices"], hello["kind"]
        return int(hello["peak"])

    def measure(self, size: int) -> _Measured:
        """Train some steps with a batch.

        Raises:
            _DoesNotFit: if that cannot be done.
            RequestError: if the job is refused with this size.
        """
        if self._process is None:
            self.start()
        answer = self._ask({"size": size})
        if "refused" in answer:
            raise RequestError(answer["refused"])
        if "failed" in answer:
            self.close()
            raise _DoesNotFit(answer["failed"])
        self._deadline = self._started + _SECONDS
        return _Measured(size, answer["speed"], answer["peak"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the child's answer.

        Raises:
            RequestError, StoppedEarly: those of the child.
            _DoesNotFit: if it died or takes too long.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=self._process.stdin, flush=True)
        try:
            line = self._answers.get(timeout=max(self._deadline - time.monotonic(), 0.0))
        except queue.Empty:
            self.close()
            raise _DoesNotFit(f"not within {self._deadline - self._started:.0f} s") from None
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        self.close()
        raise self._error(code)

    def _error(self, code: int) -> Exception:
        """Return the error for a child that ended with this code, whose last line says why."""
        with open(self._errors, encoding="utf-8", errors="replace") as errors:
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
        if code == EXIT_REQUEST:
            return RequestError(last.removeprefix("error: "))
        if code == EXIT_STOPPED:
            return StoppedEarly(last.removeprefix("stopped: "))
        return _DoesNotFit("its process was killed, as when memory runs out" if code < 0 else last[:300])

    @property
    def _errors(self) -> str:
        return os.path.join(self._folder, "errors")

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _pass_on(process: "subprocess.Popen[str]", answers: "queue.SimpleQueue[str]") -> None:
    """Pass on the child's answers; an empty one says that it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")
