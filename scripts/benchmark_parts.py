"""Measure parts of a training step and of a start side by side: what ``benchmark.py`` runs without flags of its own."""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from benchmark_notebook import notebook_model

from trainer.core.config import Config, DataConfig, RuntimeConfig
from trainer.data import augment
from trainer.data.augmentations import notebook
from trainer.distributed import strategy
from trainer.training.checkpoints.checkpoint import CheckpointStore
from trainer.training.checkpoints.writer import AsyncCheckpointWriter
from trainer.training.step import train_step as step_lib
from trainer.training.step.gradients import Batching
from trainer.training.train_state import TrainState

Ways = dict[str, Callable[[], object]]


def run(arguments: argparse.Namespace) -> None:
    """Measure one part of a step or of a start, ``arguments.what``, and print its table."""
    print_machine()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        arguments.folder, arguments.stack = Path(folder), stack
        if arguments.threads:
            _print_scaling(arguments)
            return
        costs = measure(PARTS[arguments.what](arguments), arguments.rounds)
    images = {"augment": arguments.batch_size, "step": arguments.batch_size}
    print_table(costs, images.get(arguments.what, 0))


def print_machine() -> None:
    """Print the machine, the date, the versions and the command."""
    model = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    gpus = [gpu.name for gpu in tf.config.list_physical_devices("GPU")] or ["no GPU"]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip() or 'unknown'}, {len(model)} cores "
          f"{model[0] if model else platform.processor()}, {', '.join(gpus)}, Python {platform.python_version()}, "
          f"tensorflow {tf.__version__}, keras {keras.__version__}")  # fmt: skip
    print(f"command: {' '.join(['python', *sys.argv])}\n")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


@dataclasses.dataclass(frozen=True, order=True)
class Cost:
    """The best round of one way: wall-clock seconds, and CPU seconds of all its threads.

    Of one image if the way returns how many it made, of a call if not.
    """

    seconds: float = float("inf")
    cpu_seconds: float = float("inf")
    of_an_image: bool = False


def measure(ways: Ways, rounds: int) -> dict[str, Cost]:
    """Return the best cost of each way over the rounds; a first call (tracing, compiling) is not counted."""
    for way in ways.values():
        way()
    best = dict.fromkeys(ways, Cost())
    for _ in range(rounds):
        for name, way in ways.items():
            _wait_for_saves()
            began, began_cpu = time.perf_counter(), time.process_time()
            made = way()
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
            count = made if isinstance(made, int) else 1
            best[name] = min(best[name], Cost(seconds / count, cpu_seconds / count, isinstance(made, int)))
    return best


def _wait_for_saves() -> None:
    """Wait for a checkpoint's thread to end, so that it does not disturb the next measurement."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":  # The name that checkpoints/writer.py gives it.
            thread.join()


def print_table(costs: dict[str, Cost], images: int) -> None:
    """Print images/s of each way and its speed relative to the first; without images, seconds."""
    first = next(iter(costs.values())).seconds
    for name, cost in costs.items():
        if count := 1 if cost.of_an_image else images:
            print(f"{name:<58}{count / cost.seconds:>9.0f} images/s{1000 * cost.cpu_seconds / count:>9.3f} CPU-ms an "
                  f"image{first / cost.seconds:>8.2f} x")  # fmt: skip
        else:
            print(f"{name:<58}{cost.seconds:>9.3f} s{cost.seconds / first:>8.2f} of the first")


def augment_ways(arguments: argparse.Namespace) -> Ways:
    """Return three versions of the notebook's augmentation: Keras's generator, TensorFlow's op, ours."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    size, batch = arguments.image_size, arguments.batch_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    generator = ImageDataGenerator(
        rotation_range=15, shear_range=0.1, zoom_range=0.2, horizontal_flip=True,
        width_shift_range=0.1, height_shift_range=0.1,
    )  # fmt: skip
    draws = augment.draw(0, 0, np.arange(batch))
    matrix = notebook.parameters(draws, size)
    flat = tf.constant(np.concatenate([matrix.reshape([batch, 6]), np.zeros([batch, 2], np.float32)], axis=1))
    pixels, floats = tf.constant(images), images.astype(np.float32)

    @tf.function
    def projective() -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(pixels, tf.float32), transforms=flat, output_shape=[size, size], fill_value=0.0,
            interpolation="BILINEAR", fill_mode="NEAREST",
        )  # fmt: skip

    return {
        "Keras ImageDataGenerator": lambda: [generator.random_transform(image) for image in floats],
        "tf ImageProjectiveTransformV3": lambda: projective().numpy(),
        "ours (notebook.device, XLA)": lambda: notebook.device(pixels, matrix).numpy(),
    }


def step_ways(arguments: argparse.Namespace) -> Ways:
    """Return train steps of the notebook's CNN: Keras's, and ours with one and with four gradient parts."""
    size = arguments.image_size
    setup = _setup(arguments)
    images, labels = _batch(arguments)
    stock = notebook_model(size)
    floats, one_hot = tf.constant(images, tf.float32) / 255.0, tf.one_hot(labels, 2)
    return {
        "Keras train_on_batch": lambda: stock.train_on_batch(floats, one_hot),
        "ours, one float32 gradient sum": _step(arguments, setup, 1)[0],
        "ours, gradients in 4 parts, float64 (default on a CPU)": _step(arguments, setup, 4)[0],
    }


def checkpoint_ways(arguments: argparse.Namespace) -> Ways:
    """Return a synchronous save, the copy that the loop waits for instead, and a step to compare with."""
    step, state = _step(arguments, _setup(arguments), 4)
    store = CheckpointStore(tempfile.mkdtemp(), keep=1)
    saver = AsyncCheckpointWriter(store)

    def asynchronous() -> None:
        saver.save(state.snapshot(), best_step=0, wait=True)

    return {
        "synchronous: copy, checksum, write": lambda: store.save(state.snapshot()),
        "asynchronous: copy, start the thread": asynchronous,
        "a train step": step,
    }


def resume_ways(arguments: argparse.Namespace) -> Ways:
    """Return whole starts of the command, one step and a save long, from three steps of one job."""
    folder = Path(tempfile.mkdtemp())
    _draw_images(folder / "data")
    command = [
        sys.executable, "-m", "trainer.train", f"--data_dir={folder / 'data'}", "--image_size=64", "--batch_size=8",
        "--epochs=1000", "--steps_per_epoch=1000", "--max_seconds=0.001", "--max_restarts_without_progress=0",
    ]  # fmt: skip

    def start(step: int) -> None:
        job = folder / "job"
        shutil.rmtree(job, ignore_errors=True)
        if step:
            shutil.copytree(folder / "template", job)
            store = CheckpointStore(str(job / "checkpoints"), keep=1)
            checkpoint = store.newest()
            assert checkpoint is not None
            store.save(dataclasses.replace(checkpoint, step=step))
        done = subprocess.run([*command, f"--job_dir={job}"], capture_output=True, text=True, check=False)
        assert done.returncode == 75, done.stderr

    start(0)
    shutil.copytree(folder / "job", folder / "template")
    return {
        f"start, one step, save, exit: at step {step:,}": functools.partial(start, step) for step in (0, 10, 900_000)
    }


def _draw_images(root: Path) -> None:
    generator = np.random.default_rng(0)
    for split, name in itertools.product(("Train", "Validation"), ("Fake", "Real")):
        (root / split / name).mkdir(parents=True)
        for number in range(40):
            pixels = tf.constant(generator.integers(0, 256, (64, 64, 3), np.uint8))
            tf.io.write_file(str(root / split / name / f"{number}.jpg"), tf.io.encode_jpeg(pixels))


def _setup(arguments: argparse.Namespace) -> strategy.Runtime:
    return strategy.setup(RuntimeConfig(precision=arguments.precision), DataConfig(batch_size=arguments.batch_size))


def _batch(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[B, S, S, 3]`` uint8 noise and ``[B]`` int32 labels."""
    random, batch, size = np.random.default_rng(0), arguments.batch_size, arguments.image_size
    return random.integers(0, 256, (batch, size, size, 3), np.uint8), random.integers(0, 2, batch, np.int32)


def _step(
    arguments: argparse.Namespace, setup: strategy.Runtime, shards: int
) -> tuple[Callable[[], object], TrainState]:
    """Return our train step of the notebook's CNN on one fixed batch, and the state that it moves."""
    data = DataConfig(image_size=arguments.image_size, batch_size=arguments.batch_size)
    state = TrainState.fresh(Config(data=data), setup, num_classes=2, total_steps=1)
    steps = step_lib.TrainStep(
        setup.strategy, state.model, state.optimizer, state.loss_scale, Batching(data.batch_size, shards),
        seed=0, augmentation="none",
    )  # fmt: skip
    images, labels = _batch(arguments)
    batch = {"image": tf.constant(images), "label": tf.constant(labels), "weight": tf.ones([len(labels)])}
    return lambda: steps.train(batch, tf.constant(0, tf.int64)).numpy(), state


def _input(arguments: argparse.Namespace) -> Ways:
    from benchmark_input import input_ways  # In this folder; needs packages that the other benchmarks do not.

    return input_ways(arguments.folder, arguments.stack, arguments.images, arguments.image_size, arguments.batch_size)


def _start(arguments: argparse.Namespace) -> Ways:
    from benchmark_start import start_ways

    _draw_images(arguments.folder / "data")
    size, batch_size = arguments.image_size, arguments.batch_size
    return start_ways(arguments.folder, arguments.folder / "data", size, batch_size, arguments.precision)


def _print_scaling(arguments: argparse.Namespace) -> None:
    from benchmark_input import threaded_ways
    from input_scaling import print_scaling

    ways = threaded_ways(
        arguments.folder, arguments.stack, arguments.images, arguments.image_size, arguments.batch_size
    )
    print_scaling(ways, [int(count) for count in arguments.threads.split(",")], arguments.rounds)


PARTS: dict[str, Callable[[argparse.Namespace], Ways]] = {
    "augment": augment_ways,
    "input": _input,
    "step": step_ways,
    "checkpoint": checkpoint_ways,
    "resume": resume_ways,
    "start": _start,
}
