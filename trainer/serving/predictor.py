"""An export's model, loaded, and its answers to image files and to pixels.

TensorFlow is imported when a model is loaded.
Owns: batching, reading ahead, devices, finding the bad image of a batch.  Does not own: which images there are, what
an export says of itself (``exported_model.py``).
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.pixels import Pixels
from trainer.serving.exported_model import ExportedModel, Probabilities

_READERS = 32  # Threads; they wait for disk or network, not for a core.
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class PredictionBatch:
    """A model's answers to one batch of files.

    Attributes:
        start: number of the batch's first image; 0 for pixels.
        probabilities: ``[n, C]``; rows of bad images are zeros.
        labels: ``[n]`` class names, as the export decides; "" for bad images.
        errors: why an image has no answer, by position in the batch.
        heatmaps: ``[S, S]`` in [0, 1] by position in the batch; empty unless they were asked for.
    """

    start: int
    probabilities: Probabilities
    labels: list[str]
    errors: dict[int, str]
    heatmaps: dict[int, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)


class NoHeatMaps(RequestError):
    """Say that an export cannot explain itself; ``because`` tells why."""

    def __init__(self, path: str, because: str) -> None:
        """Keep the reason, and say what to do."""
        super().__init__(
            f"--explain: expected an export with the signature explain, received {path!r} without it ({because}); "
            "export the model again, or leave out --explain"
        )
        self.because = because


class Predictor:
    """A loaded export, once on each device; batches take turns on them."""

    def __init__(self, export: ExportedModel, *, explain: bool = False, num_devices: int = 0) -> None:
        """Load the model.

        Args:
            export: which one.
            explain: whether files are answered with heat maps.
            num_devices: how many GPUs, or logical devices of a CPU; 0: all GPUs, or the CPU.

        Raises:
            NoHeatMaps: if they were asked for and the export has none.
            RequestError: if the folder holds no model that loads, or there are fewer GPUs.
        """
        import tensorflow as tf  # Late: what comes before needs no TensorFlow.

        self._tf = tf
        self._num_classes = len(export.class_names)
        self._devices = _devices(tf, num_devices)
        self._signature = "explain" if explain else "serving_default"
        try:
            with files.local_copy(export.path) as folder:
                self._loaded = [self._on(turn, tf.saved_model.load, folder) for turn in range(len(self._devices))]
            signatures = self._loaded[0].signatures
            _ = signatures["serving_default"]
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            raise RequestError(
                f"--model_dir: expected a SavedModel with the signature serving_default in {export.path!r}, "
                f"received {first_line(error)}; export the model again"
            ) from error
        if self._signature not in signatures:
            because = (export.details.get("explain") or {}).get("because", "it was written by an older version")
            raise NoHeatMaps(export.path, because)

    def _on(self, turn: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function on the device whose turn it is."""
        device = self._devices[turn]
        with self._tf.device(device) if device else contextlib.nullcontext():
            return function(*arguments, **options)

    def score(self, count: int, read: Callable[[int], bytes], batch_size: int) -> Iterator[PredictionBatch]:
        """Yield the answers to batches of ``count`` images, in order; they are read while the model works.

        Args:
            count: images.
            read: returns the encoded image of a number below ``count``, or raises OSError.
            batch_size: images scored at a time.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            try:
                yield from self._in_order(
                    functools.partial(
                        self._answer,
                        start=start,
                        contents=[pool.submit(read, number) for number in range(start, min(start + batch_size, count))],
                    )
                    for start in range(0, count, batch_size)
                )
            finally:  # Whoever stops early does not wait for files that nobody needs.
                pool.shutdown(wait=False, cancel_futures=True)

    def score_pixels(self, batches: Iterator[Pixels]) -> Iterator[PredictionBatch]:
        """Yield the answers to batches of ``[n, H, W, 3]`` RGB images, in order; few are taken ahead.

        Raises:
            RequestError: if the export does not take pixels.
        """
        if "serve_images" not in self._loaded[0].signatures:
            raise RequestError(
                "--model_dir: expected an export with the signature serve_images; export the model again"
            )
        yield from self._in_order(functools.partial(self._answer_pixels, images=images) for images in batches)

    def _answer_pixels(self, turn: int, *, images: Pixels) -> PredictionBatch:
        output = self._on(
            turn, self._loaded[turn].signatures["serve_images"], images=self._tf.constant(images, self._tf.uint8)
        )
        answers = PredictionBatch(0, np.zeros([len(images), self._num_classes], np.float32), [""] * len(images), {})
        self._take(output, range(len(images)), answers)
        return answers

    def _in_order(self, jobs: Iterator[Callable[[int], PredictionBatch]]) -> Iterator[PredictionBatch]:
        """Yield the results of jobs, which get the number of their device; few are taken before they are needed."""
        pools = [ThreadPoolExecutor(1) for _ in self._devices]
        pending: collections.deque[Future[PredictionBatch]] = collections.deque()
        try:
            for number, job in enumerate(jobs):
                turn = number % len(pools)
                pending.append(pools[turn].submit(job, turn))
                if len(pending) >= len(pools) + _BATCHES_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, turn: int, *, start: int, contents: Sequence["Future[bytes]"]) -> PredictionBatch:
        count = len(contents)
        answers = PredictionBatch(start, np.zeros([count, self._num_classes], np.float32), [""] * count, {})
        encoded: dict[int, bytes] = {}
        for position, content in enumerate(contents):
            try:
                encoded[position] = content.result()
            except (OSError, self._tf.errors.OpError) as error:
                answers.errors[position] = first_line(error)
        self._fill(turn, encoded, answers)
        return answers

    def _fill(self, turn: int, encoded: dict[int, bytes], answers: PredictionBatch) -> None:
        """Score ``{position: bytes}`` into ``answers``; a failing group is halved until one is left."""
        if not encoded:
            return
        positions = list(encoded)
        try:
            column = self._tf.constant(list(encoded.values()), self._tf.string)
            output = self._on(turn, self._loaded[turn].signatures[self._signature], image_bytes=column)
        except self._tf.errors.ResourceExhaustedError:
            raise  # The batch is too large for the memory; no image is to blame.
        except self._tf.errors.OpError as error:
            if len(positions) == 1:
                answers.errors[positions[0]] = first_line(error)
                return
            for half in (positions[: len(positions) // 2], positions[len(positions) // 2 :]):
                self._fill(turn, {position: encoded[position] for position in half}, answers)
            return
        self._take(output, positions, answers)

    def _take(self, output: dict[str, Any], positions: Sequence[int], answers: PredictionBatch) -> None:
        """Put a signature's output where it belongs in a batch."""
        for position, probabilities, label in zip(
            positions, output["probabilities"].numpy(), output["label"].numpy(), strict=True
        ):
            if np.isfinite(probabilities).all():
                answers.probabilities[position], answers.labels[position] = probabilities, label.decode()
            else:
                answers.errors[position] = "the model's answer is not a number"
        if "heatmap" in output:
            answers.heatmaps.update(zip(positions, output["heatmap"].numpy(), strict=True))


def _devices(tf: Any, wanted: int) -> list[str]:
    """Return the devices to score on; one that need not be named is empty.

    Raises:
        RequestError: if there are fewer GPUs than wanted.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus and wanted > gpus:
        raise RequestError(f"--num_devices: expected at most the {gpus} GPUs of this machine, received {wanted}")
    count = wanted or gpus or 1
    if count == 1:
        return [""]
    if not gpus:
        from trainer.distributed import strategy

        strategy.make_logical_cpus(count)
    return [f"{'GPU' if gpus else 'CPU'}:{number}" for number in range(count)]


def first_line(error: BaseException) -> str:
    """Return what an error says in one line, without the names of graph nodes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(getattr(error, "message", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    # TensorFlow says where in the graph it is, then what went wrong, then the node's name in brackets.
    nodes = [number for number, line in enumerate(lines) if line.startswith("[[")]
    line = lines[nodes[0] - 1] if nodes and nodes[0] else lines[0]
    return line.split("}} ", 1)[-1].split(" [Op:", 1)[0][:300]
