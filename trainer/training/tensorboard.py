"""TensorBoard event files: scalars always, pictures, curves and the graph with ``--tensorboard=all``.

On gs:// TensorFlow would upload the whole file again at every flush.  There the file grows in a local folder, and
``send`` appends what is new to the object.
"""

import dataclasses
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
from trainer.core.storage.transient import is_transient
from trainer.data import augment, preview
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.distributed import tf_private
from trainer.training.observers import Observer, SavedCheckpoint, Start, Validation, Window

log = logging.getLogger(__name__)


class SummaryWriter(Observer):
    """The event file of one start of a job; as an observer it writes scalars."""

    def __init__(self, folder: str, *, write: bool) -> None:
        """Create the file in a local or gs:// folder; without ``write`` every call is ignored.

        The same holds without TensorBoard's package, which ``tf.summary`` needs and TensorFlow does not install.
        """
        if write and importlib.util.find_spec("tensorboard") is None:
            log.warning("no TensorBoard events: the package tensorboard is not installed")
            write = False
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory() if write and files.is_remote(folder) else None
        self._sent = 0  # Bytes.
        self._writer = tf.summary.create_file_writer(self._scratch.name if self._scratch else folder) if write else None

    def on_start(self, start: Start) -> None:
        """Void the events of steps that will be done again."""
        self.continue_from(start.step)
        self.send()

    def on_window(self, window: Window) -> None:
        """Write the means of a window."""
        values = {
            "train/loss": window.loss,
            "train/accuracy": window.accuracy,
            "train/learning_rate": window.learning_rate,
            "train/images_per_second": window.images_per_second,
        }
        if window.gradient_norm is not None:
            values["train/gradient_norm"] = window.gradient_norm
        self.scalars(window.step, values)

    def on_validation(self, validation: Validation) -> None:
        """Write the values of a validation."""
        values = {f"validation/{name.removeprefix('val_')}": value for name, value in validation.values.items()}
        self.scalars(validation.step, values)
        self.send()

    def on_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Bring a gs:// folder up to date."""
        self.send()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the values that are finite numbers; a full disk ends the events, not the training."""

        def write() -> None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    tf.summary.scalar(name, np.array(value))  # See ``add``.

        self.add(step, write)

    def add(self, step: int, write: Callable[[], None]) -> None:
        """Call a function that writes summaries of a step with ``tf.summary``; errors are handled as in ``scalars``."""
        if self._writer is None:
            return
        try:
            # An array, because TensorFlow keeps the tensors of all Python numbers for good, see ``Execution.train``.
            # On the host, because on a GPU each number would wait for all that the card still has to do.
            with tf.device("CPU:0"), self._writer.as_default(step=np.array(step)):  # Leaving the block flushes.
                write()
        except tf.errors.OpError as error:
            log.warning("TensorBoard events cannot be written (%s): none from now on", error.message)
            self._writer = None

    def continue_from(self, step: int) -> None:
        """Void the events of later steps for readers, as these steps will be done again.

        TensorBoard drops all events from the step of a "start" event on.  ``tf.summary`` cannot write one, and the
        public op that can needs the writer's handle, which has no public name.
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


class TensorBoardReporter(Observer):
    """Writes in the chief with ``--tensorboard=all``; otherwise does nothing."""

    def __init__(
        self, config: Config, writer: SummaryWriter, model: keras.Model, train: Split, validation: Split, *,
        positive: int, write: bool,
    ) -> None:  # fmt: skip
        """Bind what there is to show.

        Args:
            config: of the job.
            writer: of the events.
            model: whose forward pass the graph shows; it is traced, not run.
            train: training images, shown augmented.
            validation: validation images, shown where the model is most wrong.
            positive: index of the class that the precision-recall curve is about.
            write: whether this process is the chief.

        Raises:
            RequestError: with ``--tensorboard=all`` and without TensorBoard's package.
        """
        self._config = config
        self._writer = writer
        self._model = model
        self._train = train
        self._validation = validation
        self._positive = positive
        self._enabled = write and config.loop.tensorboard == "all"
        if self._enabled and importlib.util.find_spec("tensorboard") is None:
            raise RequestError(
                "--tensorboard=all: expected the package tensorboard, received none; pip install -e '.[tensorboard]', "
                "or use --tensorboard=scalars"
            )

    def on_start(self, start: Start) -> None:
        """Show what a start begins with: settings, graph, and its first batch."""
        if start.rollback or start.stopped:
            return
        self._safely(start.step, lambda: self._write_settings(start.step))
        self._safely(start.step, self._write_graph)
        self._safely(start.step, lambda: self._write_batch(start.step))

    def on_validation(self, validation: Validation) -> None:
        """Show the precision-recall curve of a validation, and the worst errors."""
        step = validation.step
        images = validation.images
        probabilities = validation.probabilities
        if np.isfinite(probabilities).all():
            self._safely(step, lambda: self._write_curve(step, images, probabilities))
            self._safely(step, lambda: self._write_worst(images, probabilities))

    def _safely(self, step: int, write: Callable[[], None]) -> None:
        if not self._enabled:
            return
        try:
            self._writer.add(step, write)
        except StoppedEarly:
            raise
        except Exception as error:
            if is_transient(error):
                raise
            self._enabled = False
            log.exception("--tensorboard=all: nothing is written from now on, training continues")

    def _write_settings(self, step: int) -> None:
        fields = config_lib.settings()
        values = {name: value for name, value in self._config.flat().items() if fields[name].metadata["fixed"]}
        proto = session({**values, "epochs": self._config.loop.epochs}, self._config.loop.job_dir)
        tf.summary.experimental.write_raw_pb(proto, step=step)

    def _write_graph(self) -> None:
        model = self._model
        forward = tf.function(lambda images: model(images, training=False), autograph=False)
        tf.summary.graph(forward.get_concrete_function(tf.TensorSpec(model.input_shape, tf.float32)).graph)

    def _write_batch(self, step: int) -> None:
        data, seed = self._config.data, self._config.loop.seed
        settings = augment.Settings(self._config.augment, self._positive)
        batch = preview.of_batch(
            self._train, data, seed, step=step, batch_size=data.batch_size, count=_BATCH_IMAGES, settings=settings
        )
        tf.summary.image("train/augmented", batch.augmented, max_outputs=_BATCH_IMAGES)

    def _write_curve(self, step: int, images: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> None:
        from tensorboard.plugins.pr_curve import summary  # Late: an optional package.

        is_positive = self._validation.labels[images] == self._positive
        proto = summary.pb(
            "validation/precision_recall", is_positive, probabilities[:, self._positive], num_thresholds=_THRESHOLDS
        )
        tf.summary.experimental.write_raw_pb(proto.SerializeToString(), step=step)

    def _write_worst(self, images: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> None:
        split = self._validation
        labels = split.labels[images]
        truth = probabilities[np.arange(len(labels)), labels]
        wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
        worst = wrong[np.argsort(truth[wrong], kind="stable")][:_WORST]
        lines = [f"    {truth[i]:.4f} {files.printable(split.names[images[i]])}" for i in worst]
        text = "\n".join(["Probability of the true class:\n", *lines]) if lines else "no errors"
        tf.summary.text("validation/worst_names", text)
        if len(worst):
            data = dataclasses.replace(self._config.data, test_views=1)
            pixels = ImageSource(split, data, cached=False).load(images[worst]).images
            tf.summary.image("validation/worst", pixels, max_outputs=_WORST)


def session(values: Mapping[str, Any], name: str) -> bytes:
    """Return a serialized summary that lists a run in the HParams tab; needs TensorBoard's package.

    Args:
        values: the run's settings.
        name: of the run in the tab.
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
    # Without TensorFlow operations, which would take memory of a GPU that a trial in another process needs.
    protos = [session(values, trial_id), summary.pb(f"best_{metric}", score).SerializeToString()]
    try:
        with tempfile.TemporaryDirectory() as scratch:  # The writer would send to gs:// with TensorFlow's own client.
            writer = EventFileWriter(scratch)
            for proto in protos:
                # With TensorFlow loaded the plugin returns TensorFlow's messages, but the writer takes TensorBoard's.
                own = summary_pb2.Summary.FromString(proto)
                writer.add_event(event_pb2.Event(wall_time=time.time(), step=0, summary=own))
            writer.close()
            for path in Path(scratch).iterdir():
                files.write_bytes(files.join(job_dir, "tensorboard", "hparams", path.name), path.read_bytes())
    except StoppedEarly:
        raise
    except Exception as error:  # A full disk, say; the type depends on the storage.
        if is_transient(error):
            raise
        log.warning("TensorBoard HParams cannot be written: %s", error)
