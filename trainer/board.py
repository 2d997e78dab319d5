"""What TensorBoard gets with ``--tensorboard=all`` beside scalars: settings, graph, images, precision-recall curves.

Everything here only looks: a job has the same weights and the same ``metrics.jsonl`` with and without it, and goes on
if it fails.
Does not own: event files (``events.py``), scalars (``journal.py``), traces (``profiling.py``).
"""

import importlib.util
import logging
from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer import config as config_lib
from trainer import files, preview
from trainer.config import Config
from trainer.data.images import Images
from trainer.data.manifest import Split
from trainer.errors import RequestError, StoppedEarly
from trainer.events import Events
from trainer.sweep import hparams

log = logging.getLogger(__name__)

_BATCH_IMAGES = 16
_WORST = 8
_THRESHOLDS = 201


class Board:
    """Writes for the chief, if it was asked for; otherwise does nothing."""

    def __init__(
        self, config: Config, events: Events, train: Split, validation: Split, *, positive: int, write: bool
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
        proto = hparams.session({**values, "epochs": self._config.loop.epochs}, self._config.loop.job_dir)
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
            images = Images(split, self._config.data, cached=False).load(numbers[worst]).images
            tf.summary.image("validation/worst", images, max_outputs=_WORST)
