"""TensorBoard events of a job, written by TensorFlow.

On gs:// TensorFlow would upload the whole file again at every flush, so there the file grows in a local folder, and
``send`` appends what is new to the object.
"""

import importlib.util
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer import files

log = logging.getLogger(__name__)


class Events:
    """One event file of this start of a job."""

    def __init__(self, folder: str, *, write: bool) -> None:
        """Make the file in a local or gs:// folder; without ``write`` everything is ignored.

        So it is without TensorBoard's package, which ``tf.summary`` needs and TensorFlow does not install.
        """
        if write and importlib.util.find_spec("tensorboard") is None:
            log.warning("no TensorBoard events: the package tensorboard is not installed")
            write = False
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory() if write and files.is_remote(folder) else None
        self._sent = 0  # Bytes.
        self._writer = tf.summary.create_file_writer(self._scratch.name if self._scratch else folder) if write else None

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the values that are finite numbers; a full disk ends the events, not the training."""

        def write() -> None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    tf.summary.scalar(name, value)

        self.add(step, write)

    def add(self, step: int, write: Callable[[], None]) -> None:
        """Let a function write summaries of a step with ``tf.summary``; as ``scalars`` otherwise."""
        if self._writer is None:
            return
        try:
            with self._writer.as_default(step=step):  # Leaving the block flushes.
                write()
        except tf.errors.OpError as error:
            log.warning("TensorBoard events cannot be written (%s): none from here on", error.message)
            self._writer = None

    def continue_from(self, step: int) -> None:
        """Tell readers that what stands here of later steps is void, as these steps will be done again.

        TensorBoard drops what it read of the steps from a "start" event's on.  ``tf.summary`` cannot write one, and
        the public op that can needs the writer's handle, which has no public name.
        """
        writer = self._writer
        if writer is None:
            return
        log_start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        event = tf.compat.v1.Event(wall_time=time.time(), step=step + 1, session_log=log_start).SerializeToString()
        self.add(step, lambda: tf.raw_ops.ImportEvent(writer=writer._resource, event=event))

    def send(self) -> None:
        """Bring a gs:// folder up to date."""
        if self._scratch is None:
            return
        for path in Path(self._scratch.name).iterdir():
            new = files.read_range(str(path), self._sent, path.stat().st_size)
            if new:
                files.append_bytes(files.join(self._folder, path.name), new)
                self._sent += len(new)
