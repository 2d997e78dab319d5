"""The child process of ``--batch_size=auto``: answers how fast some train steps of a size are, and in how much memory.

Owns: one size.  Does not own: which sizes are tried (``search.py``).
"""

import contextlib
import json
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.core import config as config_lib
from trainer.core.config import Config
from trainer.core.errors import EXIT_DONE, EXIT_STOPPED, RequestError, StoppedEarly
from trainer.distributed.cluster import Cluster
from trainer.training import run
from trainer.training.batch_size.search import STEPS
from trainer.training.observers import Observer, Step, Window


class _Enough(Exception):
    """The steps are done."""


class _Watch(Observer):
    """Measures the steps after the first, and ends the job after the last."""

    def __init__(self) -> None:
        self._started = 0.0
        self.seconds = 0.0

    def on_step(self, step: Step) -> None:
        """Begin to measure after the first step."""
        if step.step == 1:
            self._started = time.monotonic()

    def on_window(self, window: Window) -> None:
        """End the job once the numbers of the last step are here."""
        if window.step == STEPS:
            self.seconds = time.monotonic() - self._started
            raise _Enough


def serve(_: Sequence[str]) -> int:
    """Be the child: answer each line of the standard input; die with the parent.

    Raises:
        RequestError: if devices or settings are refused.
        StoppedEarly: if the storage is away.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a network prints is no answer.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # If memory runs out after all, this process is the one to go.
    questions = _questions()
    first = next(questions)
    config = config_lib.from_flat(first["settings"] | {"batch_size": config_lib.AUTO})
    from trainer.distributed import strategy  # TensorFlow is loaded here.

    runtime = strategy.setup(config.runtime, config.data)
    hello = {"devices": runtime.num_devices, "kind": runtime.device_kind, "peak": _peak()}
    print(json.dumps(hello), file=answers, flush=True)
    for question in questions:
        answer = _answer(config, question["size"], os.path.join(first["folder"], f"{time.monotonic_ns()}"))
        print(json.dumps(answer), file=answers, flush=True)
    return EXIT_DONE


def _questions() -> Iterator[dict[str, Any]]:
    """Yield the parent's questions; end the process with the parent, even in the middle of a step."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(EXIT_STOPPED)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _answer(config: Config, size: int, job_dir: str) -> dict[str, Any]:
    """Train some steps with a batch; return speed and memory, or what went wrong."""
    import keras

    watch = _Watch()
    try:
        run.run(config.replace(batch_size=size, job_dir=job_dir), Cluster(), observers=[watch])
    except _Enough:
        return {"speed": size * (STEPS - 1) / max(watch.seconds, 1e-9), "peak": _peak()}
    except RequestError as refusal:
        return {"refused": str(refusal)}
    except StoppedEarly:
        raise
    except Exception as error:  # TensorFlow has many names for a lack of memory.
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    finally:
        keras.utils.clear_session(free_memory=True)
    return {"failed": "it ended before its last step"}


def _peak() -> int:
    """Return the largest memory of this process so far, in bytes."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # On Linux it begins with the parent's.
