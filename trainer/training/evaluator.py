"""End-of-epoch validation: metrics, early stopping, learning-rate schedule; and scoring of a split for the exporter.

Does not own: the rules of early stopping and schedule (``early_stopping.py``, ``schedule.py``), who is shown the
values (``observers.py``).
"""

import collections
import contextlib
import dataclasses
import logging
import math
import types
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import joblib
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.core.errors import Diverged, RequestError
from trainer.data.image_source import ImageSource
from trainer.data.interruptible import DaemonPool
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch
from trainer.evaluation import chance, metrics
from trainer.models import preprocess
from trainer.training.device_rows import DeviceRows
from trainer.training.distributed_input import DistributedInput
from trainer.training.frozen.phase import PhasedInput, PhasedStep
from trainer.training.loop import Plan, Pruner, StopReason
from trainer.training.observers import Observer, Validating, Validation
from trainer.training.stop_controller import StopController
from trainer.training.train_state import TrainState

log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True, eq=False)
class Evaluator:
    """Scores the validation images with the current weights; early stopping, schedule and pruner decide from that.

    Attributes:
        plan: which epoch a step ends, and which step is the last.
        split: the validation images.
        positive: index of the class that auc is of.
        monitor: name of the value that early stopping watches.
        plateau_monitor: name of the value that a falling learning rate watches.
        pruner: see ``loop.Pruner``; answers alike in all processes; None: nothing is pruned.
    """

    plan: Plan
    split: Split
    positive: int
    monitor: str
    plateau_monitor: str
    state: TrainState
    train_step: PhasedStep
    inputs: DistributedInput | PhasedInput
    stop: StopController
    pruner: Pruner | None
    observers: Observer

    def run(self, done: int) -> StopReason | None:
        """Validate after ``done`` steps; return why the job ends for good, None if it continues.

        None also if a stop request interrupted the validation: a large validation set must not outlast a spot node's
        notice, so the state is saved as it is and the next start validates first.

        Raises:
            Diverged: if the loss is NaN or infinite.
            RequestError: if too many images are bad.
        """
        predictions = self._predict(done)
        if predictions is None:
            return None
        images, probabilities = predictions
        figures = metrics.validation_summary(self.split.labels[images], probabilities, self.positive)
        values: dict[str, Any] = {f"val_{name}": value for name, value in figures.items()}
        if not math.isfinite(values["val_loss"]):  # The last step broke the weights: they must not become a result.
            raise Diverged(
                f"the validation loss is not finite after step {done}; lower --learning_rate, or use "
                "--precision=float32"
            )
        # The order of decisions is part of the result: the best epoch, early stopping, learning rate, pruning.
        self._update_best(done, values)
        self.observers.on_validation(_event(done, values, images, probabilities))
        positives = int((self.split.labels[images] == self.positive).sum())
        at_chance = chance.is_at_chance(values["val_auc"], positives, len(images) - positives)
        if self.state.schedule.update(values, at_chance=at_chance):
            log.info("%s stopped improving: learning rate is now %.1e",
                     self.plateau_monitor, self.state.schedule.rate(done))  # fmt: skip
        if self.pruner and not self.state.stopping.stopped and done < self.plan.total_steps:
            self.state.pruned_because = self.pruner(self.plan.epoch_of(done), figures)
        return self.state.stop_reason

    def _update_best(self, done: int, values: dict[str, Any]) -> None:
        """Record the values as the last and perhaps the best ones; complete them as the validation line has them."""
        state = self.state
        values["learning_rate"] = state.schedule.rate(done - 1)
        # Epochs with a frozen backbone cost nothing, and the ones that matter are still to come.
        may_stop = done > self.plan.frozen_steps
        values["best"] = state.stopping.update(done, values[self.monitor], may_stop=may_stop)
        state.last = values
        state.validated = done
        if values["best"]:
            state.best = values

    def _predict(self, done: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
        """Return positions ``[N]`` and probabilities ``[N, C]`` of every decodable image; None if interrupted."""
        parts, waiting, images = [], DeviceRows(), 0
        self.observers.on_validating(Validating(done, 0, len(self.split)))
        with self.state.averaged(), contextlib.closing(self.inputs.validation()) as batches:
            for batch in batches:
                rows = self.train_step.evaluate(batch)
                waiting.add(rows)
                images = min(images + int(rows.shape[0]), len(self.split))
                self.observers.on_validating(Validating(done, images, len(self.split)))
                if waiting.is_full:
                    parts.append(waiting.fetch())
                if self.stop.poll():
                    return None
        self.inputs.check_bad_images()
        if waiting:
            parts.append(waiting.fetch())
        # The last batch is padded; padding and undecodable images have weight 0.
        scored = np.concatenate(parts)[: len(self.split)]
        decoded = np.flatnonzero(scored[:, -1] > 0.0)
        if not len(decoded):
            raise RequestError("expected a validation image that can be decoded, received none; see skipped.jsonl")
        return decoded, scored[decoded, :-1]


def _event(
    done: int, values: dict[str, Any], images: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> Validation:
    """Return what observers get: a copy of the values, and arrays that they cannot write to."""
    for array in (images, probabilities):
        array.flags.writeable = False
    return Validation(done, types.MappingProxyType(dict(values)), images, probabilities)


_BATCH = 64


def score_split(
    model: keras.Model, split: Split, data: DataConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return positions ``[N]`` in the split and probabilities ``[N, C]`` of the images that can be decoded, in order.

    Args:
        model: takes ``[B, S, S, 3] float32`` in [0, 1]; see ``saved_model.live_model``.
        split: the images.
        data: input, views and largest number of pixels; the cache is not used.

    Raises:
        StoppedEarly: if the storage does not answer.
    """
    source = ImageSource(split, data, cached=False)

    @tf.function(input_signature=[tf.TensorSpec([None, *source.rule.shape], tf.uint8)], autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return preprocess.probabilities(model, images)

    positions, outputs = [], []
    for index, batch in _batches(source, len(split)):
        good = np.array([slot not in batch.errors for slot in range(len(index))], np.bool_)
        outputs.append(probabilities(batch.images).numpy()[good])
        positions.append(index[good])
    return np.concatenate(positions).astype(np.int64), np.concatenate(outputs)


def _batches(images: ImageSource, count: int) -> Iterator[tuple[npt.NDArray[np.int64], DecodedBatch]]:
    """Yield positions and pixels of batches; each core reads one ahead while the model works."""
    cores = joblib.cpu_count()
    queue: collections.deque[tuple[npt.NDArray[np.int64], Future[DecodedBatch]]] = collections.deque()
    readers = DaemonPool(cores)
    try:
        for start in range(0, count, _BATCH):
            index = np.arange(start, min(start + _BATCH, count))
            queue.append((index, readers.submit(images.load, index)))
            if len(queue) > cores:
                index, batch = queue.popleft()
                yield index, batch.result()
        for index, batch in queue:
            yield index, batch.result()
    finally:  # Whoever stops early does not wait for a read that hangs.
        readers.shutdown(cancel_futures=True)
