"""A trace of some training steps, as TensorBoard's profiler reads it (``--profile_steps``).

Tracing takes time, so the steps' images/s say less; it changes no number.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from trainer.core.storage import files

log = logging.getLogger(__name__)


class Profiler:
    """Traces the steps of one process, once."""

    def __init__(self, steps: tuple[int, int] | None, folder: str, done: int, *, write: bool) -> None:
        """Get ready.

        Args:
            steps: first and last step to trace, from 1; None: none.
            folder: of TensorBoard; a gs:// one gets the files at the end of the trace.
            done: steps that are done already.
            write: whether this process is the chief; others trace nothing.
        """
        self._steps, self._folder = steps if write else None, folder
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._running = False
        if self._steps and self._steps[0] <= done:
            log.warning(
                "--profile_steps=%d,%d: nothing is traced, as the job continues from step %d; give later steps",
                *self._steps, done,
            )  # fmt: skip
            self._steps = None

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Do one step in the block, counted from 1; trace it if it was asked for."""
        if self._steps is None or not self._steps[0] <= number <= self._steps[1]:
            yield
            return
        if number == self._steps[0]:
            self._start()
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            yield
        if number == self._steps[1]:
            self.stop()

    def stop(self) -> None:
        """End the trace if one is running, and bring it where it belongs."""
        if not self._running:
            return
        self._running, self._steps = False, None
        try:
            tf.test.experimental.sync_devices()  # What is still on its way belongs to the trace.
            tf.profiler.experimental.stop()
            if self._scratch is not None:
                for name in files.list_below(self._scratch.name):
                    content = files.read_bytes(os.path.join(self._scratch.name, name))
                    files.write_bytes(files.join(self._folder, name), content)
            log.info("profile: in %s, for TensorBoard's profiler", files.join(self._folder, "plugins", "profile"))
        except (tf.errors.OpError, OSError) as error:
            log.warning("--profile_steps: the trace could not be written: %s", error)

    def _start(self) -> None:
        if files.is_remote(self._folder):
            self._scratch = tempfile.TemporaryDirectory()
        try:
            tf.profiler.experimental.start(self._scratch.name if self._scratch else self._folder)
            self._running = True
        except tf.errors.OpError as error:
            self._steps = None
            log.warning("--profile_steps: nothing is traced: %s", error.message)
