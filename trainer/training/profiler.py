"""A trace of some training steps, as TensorBoard's profiler reads it (``--profile_steps``).

Tracing takes time, so the images/s of these steps mean little; it changes no result.
"""

import logging
import os
import tempfile

import tensorflow as tf

from trainer.core.storage import files
from trainer.training.observers import End, Observer, Start, Step

log = logging.getLogger(__name__)


class Profiler(Observer):
    """Traces steps of one process, once."""

    def __init__(self, steps: tuple[int, int] | None, folder: str, *, write: bool) -> None:
        """Bind what to trace.

        Args:
            steps: first and last step to trace, from 1; None: none.
            folder: of TensorBoard; a gs:// one gets the files at the end of the trace.
            write: whether this process is the chief; others trace nothing.
        """
        self._steps = steps if write else None
        self._folder = folder
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._running = False

    def on_start(self, start: Start) -> None:
        """Start the trace if its first step comes next; warn if that step is done already."""
        self._stop()  # A rollback ends a trace.
        if self._steps and self._steps[0] <= start.step:
            log.warning(
                "--profile_steps=%d,%d: nothing is traced, as the job continues from step %d; give later steps",
                *self._steps, start.step,
            )  # fmt: skip
            self._steps = None
        if not start.stopped:
            self._start_before(start.step + 1)

    def on_step(self, step: Step) -> None:
        """Stop the trace after its last step; start it before its first one."""
        if self._steps and step.step == self._steps[1]:
            self._stop()
        self._start_before(step.step + 1)

    def on_end(self, end: End) -> None:
        """Keep a trace that ends early."""
        self._stop()

    def _stop(self) -> None:
        """End the trace if one is running, and copy it to its folder."""
        if not self._running:
            return
        self._running = False
        self._steps = None
        try:
            tf.test.experimental.sync_devices()  # What still runs on a device belongs to the trace.
            tf.profiler.experimental.stop()
            if self._scratch is not None:
                for name in files.list_below(self._scratch.name):
                    content = files.read_bytes(os.path.join(self._scratch.name, name))
                    files.write_bytes(files.join(self._folder, name), content)
            log.info("profile: in %s, for TensorBoard's profiler", files.join(self._folder, "plugins", "profile"))
        except (tf.errors.OpError, OSError) as error:
            log.warning("--profile_steps: the trace could not be written: %s", error)

    def _start_before(self, number: int) -> None:
        """Start the trace if step ``number``, counted from 1, is its first."""
        if self._steps is None or number != self._steps[0]:
            return
        if files.is_remote(self._folder):
            self._scratch = tempfile.TemporaryDirectory()
        try:
            tf.profiler.experimental.start(self._scratch.name if self._scratch else self._folder)
            self._running = True
        except tf.errors.OpError as error:
            self._steps = None
            log.warning("--profile_steps: nothing is traced: %s", error.message)
