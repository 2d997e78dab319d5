"""Keras's global settings while a model is built or trained: always the same, whatever the user's are.

``~/.keras/keras.json``, ``KERAS_BACKEND`` and a notebook's own calls change what a layer computes, without a word.
Owns: loading Keras, and those settings.  Does not own: what Keras reads while it is loaded
(``core/keras_environment.py``), the precision of a job (``distributed/strategy.py``).
Imports Keras late, so that requests can be checked without it.
"""

import contextlib
import sys
from collections.abc import Iterator

from trainer.core import keras_environment, progress, quiet_start
from trainer.core.errors import RequestError
from trainer.core.keras_environment import BACKEND, DATA_FORMAT, EPSILON, FLOATX


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Load Keras, and set for the block what decides a model's values; then restore what the user had set.

    Raises:
        RequestError: if this process has loaded Keras with another backend.
    """
    load()
    import keras

    config = keras.config
    before = config.dtype_policy(), config.floatx(), config.epsilon(), config.image_data_format()
    try:
        _set("float32", FLOATX, EPSILON, DATA_FORMAT)
        yield
    finally:
        _set(*before)


def _set(policy: object, floatx: str, epsilon: float, data_format: str) -> None:
    import keras

    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(epsilon)
    keras.config.set_image_data_format(data_format)
    keras.config.set_dtype_policy(policy)


def load() -> None:
    """Import Keras with TensorFlow as its backend, whatever the environment and ``keras.json`` say.

    Raises:
        RequestError: if this process has loaded it with another one.
    """
    if "keras" not in sys.modules:
        quiet_start.install()  # A command has done so already, a notebook has not.
        with keras_environment.safe(), progress.phase("loading TensorFlow"):
            import keras
    import keras

    if keras.config.backend() != BACKEND:
        raise RequestError(
            f"expected Keras with the backend {BACKEND}, received {keras.config.backend()}, with which this process "
            f"has loaded it; restart the process (a notebook's kernel) with KERAS_BACKEND={BACKEND}"
        )
