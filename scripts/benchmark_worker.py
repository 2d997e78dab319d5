"""The process in which ``benchmark.py gpu`` measures TensorFlow or PyTorch: a line of JSON in, a line of JSON out.

It stays alive between rounds, so that the ways can be interleaved and each is compiled once.  If one of them takes the
process down, only that way is lost: the command starts another process for the others (``Worker``).
Owns: the protocol, and the ways of TensorFlow.  Does not own: those of PyTorch (``benchmark_torch.py``).
"""

import dataclasses
import json
import os
import platform
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
import benchmark_ways as ways
from benchmark_ways import Sizes, Way

Step = Callable[[], Any]  # Starts the work; may return before it is done.
Wait = Callable[[], Any]  # Returns when all that was started is done.


@dataclasses.dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        rate: images, FLOPs or bytes a second; 0 if there is none.
        first_seconds: until the first step was done: building, tracing, compiling.
        error: why there is no rate, one line; empty if there is one.
        note: what else is worth knowing.
    """

    rate: float = 0.0
    first_seconds: float = 0.0
    error: str = ""
    note: str = ""


class Worker:
    """A process that measures, seen from the command."""

    def __init__(self, runner: str, log: Path) -> None:
        self._words = [sys.executable, __file__, runner]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._hello: dict[str, Any] = {}

    def measure(self, way: Way, sizes: Sizes, limit_seconds: float) -> Measured:
        """Return what the process measured; an error if it died, or did not answer in time."""
        try:
            if problem := self.hello(limit_seconds).get("error"):
                return Measured(error=problem)
            request = {"way": dataclasses.asdict(way), "sizes": dataclasses.asdict(sizes)}
            return Measured(**self._ask(request, limit_seconds))
        except (OSError, ValueError) as error:  # ValueError: its last line was not whole.
            self.close()
            return Measured(error=f"{error}; see {self._log}")

    def hello(self, limit_seconds: float) -> dict[str, Any]:
        """Start the process if it does not run; return devices and versions, or an error if it cannot measure.

        Raises:
            OSError: if it says nothing in time.
        """
        if self._process is None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=ways.environment()
                )
            self._hello = self._answer(limit_seconds)
        return self._hello

    def _ask(self, request: dict[str, Any], limit_seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer(limit_seconds)

    def _answer(self, limit_seconds: float) -> dict[str, Any]:
        """Return the next line.

        Raises:
            OSError: if none comes.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit_seconds)[0]:
            raise OSError(f"no answer within {limit_seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"the process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def timed(step: Step, wait: Wait, seconds: float) -> float:
    """Return calls a second over at least so many seconds, waiting as rarely as a tenth of that time allows."""
    began = time.perf_counter()
    step()
    wait()
    calls = max(1, int(seconds / 10 / max(time.perf_counter() - began, 1e-6)))
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        for _ in range(calls):
            step()
        wait()
        count += calls
    return count / passed


def serve(runner: str, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more."""

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        build, hello = _torch() if runner == ways.TORCH else _tensorflow()
    except ImportError as error:
        say({"error": f"not installed: {error}"})
        return
    say(hello)
    ready: dict[Way, tuple[Step, Wait, float, float]] = {}
    for line in requests:
        request = json.loads(line)
        way, sizes = Way(**request["way"]), Sizes(**request["sizes"])
        try:
            if way not in ready:
                began = time.perf_counter()
                step, wait, of_a_call = build(way, sizes)
                step()
                wait()
                ready[way] = step, wait, of_a_call, time.perf_counter() - began
            step, wait, of_a_call, first = ready[way]
            say(dataclasses.asdict(Measured(timed(step, wait, sizes.seconds) * of_a_call, first)))
        except Exception as error:  # A row of the table, not the end of the others.
            text = " ".join(f"{type(error).__name__}: {error}".split())
            say(dataclasses.asdict(Measured(error=text[:300])))


Built = tuple[Step, Wait, float]  # The third: images, FLOPs or bytes of a call.


def _torch() -> tuple[Callable[[Way, Sizes], Built], dict[str, Any]]:
    import benchmark_torch  # Late: PyTorch and TensorFlow are never in one process.

    return benchmark_torch.build, benchmark_torch.hello()


def _tensorflow() -> tuple[Callable[[Way, Sizes], Built], dict[str, Any]]:
    import keras
    import tensorflow as tf

    from trainer.distributed import strategy

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # Before the first op; ``strategy.setup`` does it too late for the bare product.
        tf.config.experimental.set_memory_growth(gpu, True)
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    best = strategy.resolve_precision("auto", "GPU" if gpus else "CPU")
    versions = {"Python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
    return build, {"gpus": names, "bfloat16": best == ways.BFLOAT16, "versions": versions}


def build(way: Way, sizes: Sizes) -> Built:
    """Return a way of TensorFlow."""
    builders = {ways.PRODUCT: _product, ways.COPY: _copy, ways.STEP: _ours}
    return builders.get(way.kind, _keras)(way, sizes)


def _product(way: Way, sizes: Sizes) -> Built:
    import tensorflow as tf

    side = sizes.product
    dtype = tf.dtypes.as_dtype(way.precision.removeprefix("mixed_"))
    a, b = (tf.cast(tf.random.stateless_uniform([side, side], [0, n]), dtype) for n in (1, 2))
    return *_waited(tf.function(lambda: tf.matmul(a, b), autograph=False)), 2.0 * side**3


def _copy(way: Way, sizes: Sizes) -> Built:
    """Return the negation of a vector: as many bytes are read as written, and neither can be left out."""
    import tensorflow as tf

    vector = tf.random.stateless_uniform([sizes.copy_bytes // 4], [0, 1])
    return *_waited(tf.function(lambda: -vector, autograph=False)), 2.0 * sizes.copy_bytes


def _waited(compute: Callable[[], Any]) -> tuple[Step, Wait]:
    """Return a step, and a wait for the last one by reading one number of its result."""
    last: list[Any] = []

    def step() -> None:
        last[:] = [compute()]

    return step, lambda: last[0][(0,) * len(last[0].shape)].numpy()


def _ours(way: Way, sizes: Sizes) -> Built:
    """Return the step of a job with default settings."""
    import numpy as np
    import tensorflow as tf

    from trainer.core.config import Config, DataConfig, RuntimeConfig
    from trainer.data import augment
    from trainer.data.augmentations import notebook
    from trainer.distributed import strategy
    from trainer.training.step.gradients import Batching
    from trainer.training.step.train_step import TrainStep
    from trainer.training.train_state import TrainState

    data = DataConfig(image_size=sizes.image_size, batch_size=sizes.batch_size)
    runtime = strategy.setup(RuntimeConfig(precision=way.precision, strategy="single"), data)
    state = TrainState.fresh(Config(data=data), runtime, num_classes=2, total_steps=1)
    steps = TrainStep(
        runtime.strategy, state.model, state.optimizer, state.loss_scale,
        Batching(data.batch_size, runtime.gradient_shards), seed=0, augmentation=way.augment, xla=way.xla,
        allreduce_dtype=runtime.allreduce_dtype,
    )  # fmt: skip
    images, labels = _batch(sizes)
    batch = {
        "image": tf.constant(images), "label": tf.constant(labels), "weight": tf.ones([len(labels)]),
        "parameters": tf.constant(notebook.parameters(augment.draw(0, 0, np.arange(len(labels))), sizes.image_size)),
    }  # fmt: skip
    if way.augment == "none":
        del batch["parameters"]
    number = tf.constant(0, tf.int64)
    return *_waited(lambda: steps.train(batch, number)), float(sizes.batch_size)


def _keras(way: Way, sizes: Sizes) -> Built:
    """Return Keras's own loop, or one step of it."""
    import keras
    import tensorflow as tf
    from benchmark_notebook import notebook_model

    keras.config.set_dtype_policy(way.precision)
    model = notebook_model(sizes.image_size)
    model.compile(loss="binary_crossentropy", optimizer="adam", jit_compile=way.xla)
    images, labels = _batch(sizes)
    floats, one_hot = tf.constant(images, tf.float32) / 255.0, tf.one_hot(labels, 2)
    if way.kind == ways.TRAIN_ON_BATCH:  # It returns the loss as a number, so it has waited.
        return lambda: model.train_on_batch(floats, one_hot), lambda: None, float(sizes.batch_size)
    dataset = tf.data.Dataset.from_tensors((floats, one_hot)).repeat(sizes.fit_steps)
    return lambda: model.fit(dataset, verbose=0), lambda: None, float(sizes.batch_size * sizes.fit_steps)


def _batch(sizes: Sizes) -> tuple[Any, Any]:
    """Return ``[B, S, S, 3]`` uint8 noise and ``[B]`` int32 labels."""
    import numpy as np

    random, batch, side = np.random.default_rng(0), sizes.batch_size, sizes.image_size
    return random.integers(0, 256, (batch, side, side, 3), np.uint8), random.integers(0, 2, batch, np.int32)


if __name__ == "__main__":
    # What libraries print goes to the log, so that answers stay one line each.
    with os.fdopen(os.dup(1), "w") as own_answers:
        os.dup2(2, 1)
        serve(sys.argv[1], sys.stdin, own_answers)
