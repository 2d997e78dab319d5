"""The ways of ``benchmark.py input``: from JPEG files to batches, with ours and with the alternatives."""

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.helpers.fake_gcs import serve, upload
from trainer.core.config import DataConfig
from trainer.data import manifest, pipeline
from trainer.data.augmentations import notebook
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.order import Order
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags

PASSES = 32  # Of the fast ways in a round.
STORED = 256  # Pixels; ways that do not resize decode at this size.


def input_ways(
    folder: Path, stack: contextlib.ExitStack, images: int, size: int, batch: int
) -> dict[str, Callable[[], object]]:
    """Return one pass over a generated set of JPEG photographs in each way.

    Args:
        folder: to write the set into.
        stack: ends the pipelines, and the fake-gcs-server, which shares the machine, as no bucket does.
        images: how many.
        size: pixels that training sees.
        batch: images of a batch.
    """
    data = _draw(folder / "data", images)
    packed = str(folder / "packed")
    writer.pack(PackFlags(data_dir=str(data), out=packed), manifest.read_all_splits(str(data)))
    ours = functools.partial(_ours, stack, batch=batch)
    bucket = _upload(packed, folder, stack)
    return {
        "libjpeg-turbo alone, a thread for each core: the limit": _limit(data, batch),
        "notebook: ImageDataGenerator, augmented": _generator(data, size, batch),
        "image_dataset_from_directory, Keras's augmentation": _keras(data, size, batch),
        "ours, folder: decode": ours(str(data), STORED, "none"),
        "ours, packed: decode": ours(packed, STORED, "none"),
        "ours, packed, from fake-gcs-server: decode": ours(bucket, STORED, "none"),
        "ours, packed: decode and resize": ours(packed, size, "none"),
        "ours, packed: decode, resize, augment": ours(packed, size, "notebook"),
        "ours, memory cache": ours(packed, size, "none", cache="memory"),
        "ours, memory cache, augment": ours(packed, size, "notebook", cache="memory"),
        "ours, disk cache": ours(packed, size, "none", cache=str(folder / "cache")),
    }


def threaded_ways(
    folder: Path, stack: contextlib.ExitStack, images: int, size: int, batch: int
) -> dict[str, Callable[[int], Callable[[], object]]]:
    """Return our ways that ``--threads`` measures, each for a number of threads; see ``input_ways``."""
    data, packed = str(_draw(folder / "data", images)), str(folder / "packed")
    writer.pack(PackFlags(data_dir=data, out=packed), manifest.read_all_splits(data))

    def way(
        data_dir: str, size: int, cache: str = "none", *, apart: bool = False
    ) -> Callable[[int], Callable[[], object]]:
        return lambda threads: _ours(
            stack,
            data_dir,
            size,
            "none",
            batch=batch,
            cache=cache,
            threads=threads,
            processes=max(2, threads) if apart else 1,
        )

    return {
        "folder: decode and resize, in as many processes": way(data, size, apart=True),
        "packed: decode and resize, in as many processes": way(packed, size, apart=True),
        "folder: decode and resize": way(data, size),
        "packed: decode and resize": way(packed, size),
        "packed: decode": way(packed, STORED),
        "memory cache": way(packed, size, "memory"),
        "disk cache": way(packed, size, str(folder / "cache")),
    }


def _draw(root: Path, images: int) -> Path:
    """Write JPEGs of quality 90 with the detail of a photograph: noise of every scale, the coarse strongest."""
    random = np.random.default_rng(0)
    for number, name in zip(range(images), itertools.cycle(("Fake", "Real"))):
        field = np.full([STORED, STORED, 3], 128.0, np.float32)
        for scale in (4, 8, 16, 32, 64, 128, 256):
            coarse = random.normal(0, 90 / scale**0.7, [scale, scale, 3]).astype(np.float32)
            field += cv2.resize(coarse, (STORED, STORED), interpolation=cv2.INTER_CUBIC)
        path = root / "Train" / name / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), field.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return root


def _upload(packed: str, folder: Path, stack: contextlib.ExitStack) -> str:
    server = stack.enter_context(serve(folder))
    os.environ.update(server.environment())
    return str(upload(packed, f"{server.make_bucket('benchmark')}/packed"))


def _limit(data: Path, batch: int) -> Callable[[], object]:
    contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(data.rglob("*.jpg"))]
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(cv2.getNumberOfCPUs())
    pieces = [contents[start : start + batch] for start in range(0, len(contents), batch)]
    decoded = lambda piece: len([cv2.imdecode(one, cv2.IMREAD_COLOR) for one in piece])  # noqa: E731
    return lambda: sum(pool.map(decoded, pieces * PASSES))


def _generator(data: Path, size: int, batch: int) -> Callable[[], object]:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    flow = ImageDataGenerator(
        rescale=1.0 / 255, rotation_range=15, shear_range=0.1, zoom_range=0.2, horizontal_flip=True,
        width_shift_range=0.1, height_shift_range=0.1,
    ).flow_from_directory(data / "Train", target_size=(size, size), batch_size=batch)  # fmt: skip
    return lambda: sum(len(flow[number][1]) for number in range(len(flow)))


def _keras(data: Path, size: int, batch: int) -> Callable[[], object]:
    layers = keras.layers
    change = keras.Sequential([
        layers.Rescaling(1 / 255), layers.RandomFlip("horizontal"), layers.RandomRotation(15 / 360),
        layers.RandomTranslation(0.1, 0.1), layers.RandomZoom(0.2, 0.2),
    ])  # fmt: skip
    dataset = keras.utils.image_dataset_from_directory(
        data / "Train", image_size=(size, size), batch_size=batch, verbose=False
    ).map(lambda x, y: (change(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    return lambda: sum(len(labels) for _, labels in dataset)


def _ours(
    stack: contextlib.ExitStack,
    data_dir: str,
    size: int,
    augmentation: str,
    *,
    batch: int,
    cache: str = "none",
    threads: int = 0,
    processes: int = 0,
) -> Callable[[], object]:
    """Return some passes through the pipeline of a training job, with the device's part of the augmentation.

    As in a job it is started once.  So a round finds some batches ready, and leaves as many to the next.
    """
    split = manifest.read_split(data_dir, "Train")
    images = ImageSource(split, DataConfig(image_size=size, cache=cache, decode_processes=processes))
    order = Order(len(split), batch)
    dataset = pipeline.batches(
        split, images, order, BadImages("", 0.0, write=False), augmentation=augmentation, share=pipeline.ReplicaShare(),
        start_step=0, stop_step=10**9, calls=threads,
    )  # fmt: skip

    def batches() -> Generator[int, None, None]:
        for element in dataset:
            if augmentation == "notebook":
                notebook.device(element["image"], element["parameters"])
            yield len(element["index"])

    running, steps = batches(), PASSES * order.steps_per_pass
    stack.callback(running.close)  # An interpreter that exits while TensorFlow calls into it hangs.
    return lambda: sum(itertools.islice(running, steps))
