"""Training on features while the backbone is frozen, and on pixels afterwards, behind the same inputs and steps.

A batch says by what it holds which of the two steps it is for.  Which one comes is a function of the step
(``loop.Plan.frozen_steps``), so that a job can be resumed at any.
Owns: batches of features and steps on them.  Does not own: how features are computed (``features.py``), what starts
afresh when the backbone is released (``train_state.py``).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data import pipeline
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.models.split import Parts
from trainer.training.distributed_input import Batches, DistributedInput
from trainer.training.frozen.feature_store import Rows
from trainer.training.frozen.features import FeatureExtractor
from trainer.training.loop import Plan
from trainer.training.step.gradients import Batch
from trainer.training.step.train_step import TrainStep
from trainer.training.train_state import TrainState


class HeadStep(TrainStep):
    """The train and eval step of the head alone, on batches of features; see ``TrainStep``."""

    def __init__(self, strategy: tf.distribute.Strategy, parts: Parts, *arguments: Any, **options: Any) -> None:
        """Bind the head; the other arguments are those of ``TrainStep``."""
        self._parts = parts
        super().__init__(strategy, parts.head, *arguments, **options, augmentation="none")

    def _logits_of(self, model: keras.Model) -> keras.Model:
        return self._parts.head_logits

    def _pixels(self, batch: Batch) -> tf.Tensor:
        return batch["features"]

    def _evaluate_replica(self, batch: Batch, compiled: bool) -> tf.Tensor:
        del compiled  # A layer or two.
        rows = self._in_pieces(functools.partial(self._model, training=False), batch["features"])
        return tf.concat([rows, batch["weight"][:, None]], axis=1)


@dataclasses.dataclass(frozen=True)
class PhasedStep:
    """The step of the whole model for batches of pixels, and that of the head for batches of features, if any come."""

    whole: TrainStep
    head: TrainStep | None = None

    def train(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        """See ``TrainStep.train``."""
        return self.of(batch).train(batch, step)

    def evaluate(self, batch: Batch) -> tf.Tensor:
        """See ``TrainStep.evaluate``."""
        return self.of(batch).evaluate(batch)

    def of(self, batch: Batch) -> TrainStep:
        """Return the step that such batches are for."""
        if "features" not in batch:
            return self.whole
        assert self.head is not None, "features come only while a backbone is frozen"
        return self.head


class PhasedInput:
    """Batches of features while the backbone is frozen, and of pixels afterwards; see ``DistributedInput``."""

    def __init__(
        self, pixels: DistributedInput, extractor: FeatureExtractor, plan: Plan, state: TrainState
    ) -> None:  # fmt: skip
        """Bind both.

        Args:
            pixels: the input of batches of pixels.
            extractor: computes the features.
            plan: in which steps the backbone is frozen.
            state: at which step the job is.
        """
        self._pixels = pixels
        self._extractor = extractor
        self._plan = plan
        self._state = state
        self._rows: dict[Split, Rows] = {}

    def training(self, start_step: int, stop_step: int) -> Batches:
        """Return the batches of steps ``[start_step, stop_step)``; the features of all images are computed first."""
        change = min(self._plan.frozen_steps, stop_step)
        if start_step < change:
            for split in (self._pixels.train_split, self._pixels.validation_split):
                self._rows_of(split)
        return self._training(start_step, change, stop_step)

    def _training(self, start: int, change: int, stop: int) -> Batches:
        if start < change:
            yield from self._features(self._pixels.train_split, self._pixels.train_order, start, change)
        if change < stop:
            self._rows.clear()
            self._extractor.forget()
            with contextlib.closing(self._pixels.training(max(start, change), stop)) as batches:
                yield from batches

    def validation(self) -> Batches:
        """Return every validation image once; its features, if the backbone was frozen in the last step."""
        if self._state.step > self._plan.frozen_steps:
            return self._pixels.validation()
        order = self._pixels.validation_order
        self._rows_of(self._pixels.validation_split)
        return self._features(self._pixels.validation_split, order, 0, order.steps_per_pass)

    def check_bad_images(self, *, merge: bool = False) -> None:
        """See ``DistributedInput.check_bad_images``."""
        self._pixels.check_bad_images(merge=merge)

    def _rows_of(self, split: Split) -> Rows:
        if split not in self._rows:
            self._rows[split] = self._extractor.rows(split)
        return self._rows[split]

    def _features(self, split: Split, order: Order, start: int, stop: int) -> Batches:
        elements = feature_batches(split, self._rows_of(split), order, self._pixels.share, start, stop)
        batches: Iterable[Batch] = self._pixels.on_devices(elements)
        yield from batches


def feature_batches(
    split: Split, rows: Rows, order: Order, share: pipeline.ReplicaShare, start_step: int, stop_step: int
) -> tf.data.Dataset:
    """Return batches as ``pipeline.batches`` does, with ``features [b, F] float32`` in place of the images."""
    count, width = order.batch_size // share.replicas, rows.shape[1]
    labels = tf.constant(split.labels, tf.int32)

    def gather(index: npt.NDArray[np.int64]) -> Rows:  # Not tf.gather: its constant would be a copy of all rows.
        return rows[index]

    def element(number: tf.Tensor) -> Batch:
        _, index, real = share.slots(order, number)
        own = tf.ensure_shape(tf.numpy_function(gather, [index], tf.float32), [count, width])
        weight = tf.cast(real, tf.float32) * own[:, -1]
        return {"index": index, "label": tf.gather(labels, index), "weight": weight, "features": own[:, :-1]}

    elements = tf.data.Dataset.range(start_step * share.local, stop_step * share.local)
    loaded = elements.map(tf.autograph.experimental.do_not_convert(element))
    return loaded.prefetch(2 * share.local).with_options(pipeline.options())
