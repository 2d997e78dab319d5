"""The validation at the end of an epoch: its figures, and what they decide of the job's future."""

import collections
import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import joblib
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.config import Config, DataConfig
from trainer.core.errors import Diverged, RequestError
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch
from trainer.distributed.process_group import SingleProcess
from trainer.evaluation import metrics
from trainer.models import preprocess
from trainer.training.distributed_input import DistributedInput
from trainer.training.loop import Plan, Pruner, StopReason
from trainer.training.metrics_log import MetricsLog
from trainer.training.progress_bar import ProgressBar
from trainer.training.stop_controller import StopController
from trainer.training.tensorboard import TensorBoardReporter
from trainer.training.train_state import TrainState
from trainer.training.train_step import TrainStep

log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True, eq=False)
class Evaluator:
    """Scores the Validation images with the weights as they are, and lets schedule, patience and judge decide.

    Attributes:
        positive: index of the class that auc is of.
        judge: see ``train.run``; None: nobody is asked.
    """

    config: Config
    plan: Plan
    split: Split
    positive: int
    group: SingleProcess
    judge: Pruner | None
    state: TrainState
    steps: TrainStep
    feed: DistributedInput
    halt: StopController
    journal: MetricsLog
    board: TensorBoardReporter
    progress: ProgressBar

    def run(self, done: int) -> StopReason | None:
        """Validate after ``done`` steps; return how the job has ended for good, None if it goes on.

        None also if a stop request broke it off: a large validation set must not outlast a spot node's notice, so the
        state is saved as it is and the next start validates first.

        Raises:
            Diverged: if the loss is no number.
            RequestError: if too many images are bad.
        """
        figures = self._figures()
        if figures is None:
            return None
        values: dict[str, Any] = {f"val_{name}": value for name, value in figures.items()}
        if not math.isfinite(values["val_loss"]):  # The last step broke the weights: they must not become a result.
            raise Diverged(
                f"the validation loss is not finite after step {done}; lower --learning_rate, or use "
                "--precision=float32"
            )
        self._decide(done, values)
        if self.judge and not self.state.stopping.stopped and done < self.plan.total_steps:
            verdict = self.judge(self.plan.epoch_of(done), figures) if self.group.index == 0 else None
            self.state.hopeless = self.group.broadcast(verdict)
        self.journal.resume_clock()
        return self.state.ending

    def _decide(self, done: int, values: dict[str, Any]) -> None:
        """Move early stopping and the schedule by the values, and write them down."""
        state = self.state
        values["learning_rate"] = state.schedule.rate(done - 1)
        values["best"] = state.stopping.update(done, values[self.config.loop.monitor])
        state.last, state.validated = values, done
        if values["best"]:
            state.best = values
        self.journal.validation(done, values)
        self.progress.epoch(done, values)
        if state.schedule.update(values):
            log.info("%s stopped improving: learning rate is now %.1e",
                     self.config.optim.plateau_monitor, state.schedule.rate(done))  # fmt: skip

    def _figures(self) -> dict[str, float | None] | None:
        """Return loss, accuracy and auc over every decodable image, each counted once; None if it was broken off."""
        outputs = []
        with contextlib.closing(self.feed.validation(self.split)) as batches:
            for batch in batches:
                outputs.append(self.steps.evaluate(batch).numpy())
                if self.halt.poll():
                    return None
        self.feed.check_bad_images()
        rows = np.concatenate(outputs)[: len(self.split)]
        real = rows[:, -1] > 0.0
        if not real.any():
            raise RequestError("expected a validation image that can be decoded, received none; see skipped.jsonl")
        self.board.validation(self.state.step, np.flatnonzero(real), rows[real, :-1])
        return metrics.validation_summary(self.split.labels[real], rows[real, :-1], self.positive)


_BATCH = 64


def score_split(
    model: keras.Model, split: Split, data: DataConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return numbers ``[N]`` and probabilities ``[N, C]`` of the images that can be decoded, each once.

    The numbers say where they stand in the split, in its order.

    Args:
        model: takes ``[B, S, S, 3] float32`` in [0, 1]; see ``savedmodel.live_model``.
        split: the images.
        data: image size and largest number of pixels; its cache is not used.

    Raises:
        StoppedEarly: if the storage does not answer.
    """
    size = data.image_size

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.uint8)], autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return model(preprocess.to_unit_range(images), training=False)

    numbers, outputs = [], []
    for index, loaded in _batches(ImageSource(split, data, cached=False), len(split)):
        good = np.array([position not in loaded.errors for position in range(len(index))], np.bool_)
        outputs.append(probabilities(loaded.images).numpy()[good])
        numbers.append(index[good])
    return np.concatenate(numbers).astype(np.int64), np.concatenate(outputs)


def _batches(images: ImageSource, count: int) -> Iterator[tuple[npt.NDArray[np.int64], DecodedBatch]]:
    """Yield index and pixels of batches; the next ones are read, one on each core, while the model works."""
    cores = joblib.cpu_count()
    waiting: collections.deque[tuple[npt.NDArray[np.int64], Future[DecodedBatch]]] = collections.deque()
    with ThreadPoolExecutor(cores) as readers:
        for start in range(0, count, _BATCH):
            index = np.arange(start, min(start + _BATCH, count))
            waiting.append((index, readers.submit(images.load, index)))
            if len(waiting) > cores:
                index, loaded = waiting.popleft()
                yield index, loaded.result()
        for index, loaded in waiting:
            yield index, loaded.result()
