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

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core import config as config_lib
from trainer.core.config import Config
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import files
from trainer.data import preview
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.distributed import tf_private

log = logging.getLogger(__name__)


class SummaryWriter:
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
        self.add(step, lambda: tf.raw_ops.ImportEvent(writer=tf_private.writer_resource(writer), event=event))

    def send(self) -> None:
        """Bring a gs:// folder up to date."""
        if self._scratch is None:
            return
        for path in Path(self._scratch.name).iterdir():
            new = files.read_range(str(path), self._sent, path.stat().st_size)
            if new:
                files.append_bytes(files.join(self._folder, path.name), new)
                self._sent += len(new)


_BATCH_IMAGES = 16
_WORST = 8
_THRESHOLDS = 201


class TensorBoardReporter:
    """Writes for the chief, if it was asked for; otherwise does nothing."""

    def __init__(
        self, config: Config, events: SummaryWriter, train: Split, validation: Split, *, positive: int, write: bool
    ) -> None:
        """Bind what there is to show.

        Raises:
            RequestError: if it was asked for, and TensorBoard's package is not there.
        """
        self._config, self._events, self._train, self._validation = config, events, train, validation
        self._positive, self._on = positive, write and config.loop.tensorboard == "all"
        if self._on and importlib.util.find_spec("tensorboard") is None:
            raise RequestError(
                "--tensorboard=all: expected the package tensorboard, received none; pip install -e '.[tensorboard]', "
                "or use --tensorboard=scalars"
            )

    def start(self, step: int, model: keras.Model) -> None:
        """Show what a start begins with: settings, graph, and its first batch.

        Args:
            step: steps done.
            model: whose forward pass the graph shows; it is traced, not run.
        """
        self._safely(step, lambda: self._write_settings(step))
        self._safely(step, lambda: self._write_graph(model))
        self._safely(step, lambda: self._write_batch(step))

    def validation(self, step: int, numbers: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> None:
        """Show a validation: its precision-recall curve, and what was most wrong.

        Args:
            step: steps done.
            numbers: ``[N]`` of the images that were scored, in the split.
            probabilities: ``[N, C]``.
        """
        if np.isfinite(probabilities).all():
            self._safely(step, lambda: self._write_curve(step, numbers, probabilities))
            self._safely(step, lambda: self._write_worst(numbers, probabilities))

    def _safely(self, step: int, write: Callable[[], None]) -> None:
        if not self._on:
            return
        try:
            self._events.add(step, write)
        except StoppedEarly:
            raise
        except Exception:
            self._on = False
            log.exception("--tensorboard=all: none of it from here on, the job goes on")

    def _write_settings(self, step: int) -> None:
        known = config_lib.settings()
        values = {name: value for name, value in self._config.flat().items() if known[name].metadata["fixed"]}
        proto = session({**values, "epochs": self._config.loop.epochs}, self._config.loop.job_dir)
        tf.summary.experimental.write_raw_pb(proto, step=step)

    def _write_graph(self, model: keras.Model) -> None:
        forward = tf.function(lambda images: model(images, training=False), autograph=False)
        tf.summary.graph(forward.get_concrete_function(tf.TensorSpec(model.input_shape, tf.float32)).graph)

    def _write_batch(self, step: int) -> None:
        data, seed = self._config.data, self._config.loop.seed
        shown = preview.of_batch(self._train, data, seed, step=step, batch_size=data.batch_size, count=_BATCH_IMAGES)
        tf.summary.image("train/augmented", shown.augmented, max_outputs=_BATCH_IMAGES)

    def _write_curve(self, step: int, numbers: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> None:
        from tensorboard.plugins.pr_curve import summary  # Late: an optional package.

        is_positive = self._validation.labels[numbers] == self._positive
        proto = summary.pb(
            "validation/precision_recall", is_positive, probabilities[:, self._positive], num_thresholds=_THRESHOLDS
        )
        tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=step)

    def _write_worst(self, numbers: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> None:
        split, labels = self._validation, self._validation.labels[numbers]
        of_truth = probabilities[np.arange(len(labels)), labels]
        wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
        worst = wrong[np.argsort(of_truth[wrong], kind="stable")][:_WORST]
        lines = [f"    {of_truth[i]:.4f} {files.printable(split.names[numbers[i]])}" for i in worst]
        text = "\n".join(["Probability of the true class:\n", *lines]) if lines else "no errors"
        tf.summary.text("validation/worst_names", text)
        if len(worst):
            images = ImageSource(split, self._config.data, cached=False).load(numbers[worst]).images
            tf.summary.image("validation/worst", images, max_outputs=_WORST)


def session(values: Mapping[str, Any], name: str) -> bytes:
    """Return the summary, serialized, that makes a run one of the HParams tab; needs TensorBoard's package.

    Args:
        values: the run's settings.
        name: that the tab shows it under.
    """
    from tensorboard.plugins.hparams import api

    return bytes(api.hparams_pb(dict(values), trial_id=name).SerializeToString())


def write(job_dir: str, trial_id: str, values: Mapping[str, Any], metric: str, score: float) -> None:
    """Write an event file into ``tensorboard/hparams`` of a trial; without TensorBoard's package there is none."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.scalar import summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return
    # No TensorFlow operation: it would take memory of a GPU that another process's trial needs.
    protos = [session(values, trial_id), summary.pb(f"best_{metric}", score).SerializeToString()]
    try:
        writer = EventFileWriter(files.join(job_dir, "tensorboard", "hparams"))
        for proto in protos:
            # With TensorFlow loaded the plugin makes TensorFlow's messages, and the writer takes TensorBoard's.
            own = summary_pb2.Summary.FromString(proto)
            writer.add_event(event_pb2.Event(wall_time=time.time(), step=0, summary=own))
        writer.close()
    except Exception as error:  # A full disk, say; its types differ by place.
        log.warning("TensorBoard HParams cannot be written: %s", error)
