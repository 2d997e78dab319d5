"""A live model's probabilities for every image of a split, on this process's default device.

Other processes of a job take no part, so the chief can use it while they wait.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import joblib
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config import DataConfig
from trainer.data.images import Images
from trainer.data.manifest import Split
from trainer.data.pixels import Loaded

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
        return model(tf.cast(images, tf.float32) / 255.0, training=False)

    numbers, outputs = [], []
    for index, loaded in _batches(Images(split, data, cached=False), len(split)):
        good = np.array([position not in loaded.errors for position in range(len(index))], np.bool_)
        outputs.append(probabilities(loaded.images).numpy()[good])
        numbers.append(index[good])
    return np.concatenate(numbers).astype(np.int64), np.concatenate(outputs)


def _batches(images: Images, count: int) -> Iterator[tuple[npt.NDArray[np.int64], Loaded]]:
    """Yield index and pixels of batches; the next ones are read, one on each core, while the model works."""
    cores = joblib.cpu_count()
    waiting: collections.deque[tuple[npt.NDArray[np.int64], Future[Loaded]]] = collections.deque()
    with ThreadPoolExecutor(cores) as readers:
        for start in range(0, count, _BATCH):
            index = np.arange(start, min(start + _BATCH, count))
            waiting.append((index, readers.submit(images.load, index)))
            if len(waiting) > cores:
                index, loaded = waiting.popleft()
                yield index, loaded.result()
        for index, loaded in waiting:
            yield index, loaded.result()
