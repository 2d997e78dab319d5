"""Load an exported model and run it on image files or pixels.

TensorFlow is imported when a model is loaded.
Owns: batching, reading ahead, devices, finding the bad image of a batch.  Does not own: which images to score, the
metadata of an export (``exported_model.py``).
"""

import collections
import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.errors import AccessDenied, RequestError, StorageDown
from trainer.core.storage import files, transient
from trainer.data.formats import image_format, rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.interruptible import DaemonPool
from trainer.data.pixels import Pixels
from trainer.models import keras_settings
from trainer.serving.exported_model import ExportedModel, Probabilities

NOT_FINITE = "the model's answer is NaN or infinite"  # Why an image has no probabilities.

_READERS = 32  # Threads; they wait for disk or network, not for a core.
_BATCHES_AHEAD = 2  # Besides one for each device.


@dataclasses.dataclass(frozen=True, eq=False)
class PredictionBatch:
    """The model's answers to one batch of files or pixels.

    Attributes:
        start: index of the batch's first image; 0 for pixels.
        probabilities: ``[n, C]``; rows of bad images are zeros.
        labels: ``[n]`` class names that the export chose; "" for bad images.
        errors: by position in the batch, why an image has no answer.
        heatmaps: by position in the batch, ``[S, S]`` in [0, 1]; empty unless requested.
    """

    start: int
    probabilities: Probabilities
    labels: list[str]
    errors: dict[int, str]
    heatmaps: dict[int, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)


class NoHeatMaps(RequestError):
    """Raised for an export without heat maps; ``because`` holds the reason."""

    def __init__(self, path: str, because: str) -> None:
        """Store the reason."""
        super().__init__(
            f"--explain: expected an export with the signature explain, received {path!r} without it ({because}); "
            "export the model again, or leave out --explain"
        )
        self.because = because


class Predictor:
    """An export loaded on each device; batches are distributed over the devices in turn."""

    def __init__(self, export: ExportedModel, *, explain: bool = False, num_devices: int = 0) -> None:
        """Load the model.

        Args:
            export: from ``find_export``.
            explain: whether files are answered with heat maps.
            num_devices: number of GPUs, or of logical devices of a CPU; 0: all GPUs, or the CPU.

        Raises:
            NoHeatMaps: if the export cannot make the requested heat maps.
            RequestError: if the model does not load, or there are fewer GPUs.
            StorageDown: if its files cannot be read, for a reason that may pass.
        """
        import tensorflow as tf  # Late: wrong requests must be answered without it.

        self._tf = tf
        self._export = export
        self._num_classes = len(export.class_names)
        self._max_pixels = export.max_image_pixels
        self._devices = _devices(tf, num_devices)
        self._signature = "explain" if explain else "serving_default"
        try:
            with files.local_copy(export.path) as folder:
                self._models = [self._on_device(i, tf.saved_model.load, folder) for i in range(len(self._devices))]
            signatures = self._models[0].signatures
            _ = signatures["serving_default"]
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            if transient.is_transient(error) or isinstance(error, _may_pass(tf)):
                raise StorageDown(
                    f"{export.path!r} could not be loaded ({first_line(error)}); this may pass: rerun the same command"
                ) from error
            raise RequestError(
                f"--model_dir: expected a SavedModel with the signature serving_default in {export.path!r}, "
                f"received {first_line(error)}; export the model again"
            ) from error
        _refuse_other_classes(export, signatures["serving_default"])
        self._require_signature()

    def _require_signature(self) -> None:
        """Refuse an export without the signature for heat maps, if it is requested."""
        if self._signature not in self._models[0].signatures:
            because = (self._export.details.get("explain") or {}).get("because", "it was written by an older version")
            raise NoHeatMaps(self._export.path, because)

    def explaining(self) -> "Predictor":
        """Return a predictor of the same loaded model whose answers to files have heat maps.

        Raises:
            NoHeatMaps: if the export cannot make them.
        """
        twin = copy.copy(self)
        twin._signature = "explain"
        twin._require_signature()
        return twin

    def score_batch(self, contents: Sequence[bytes]) -> PredictionBatch:
        """Return the answers to one batch of encoded images, on the caller's thread and the first device."""
        answers = PredictionBatch(0, np.zeros([len(contents), self._num_classes], np.float32), [""] * len(contents), {})
        encoded: dict[int, bytes] = {}
        for position, content in enumerate(contents):
            try:
                encoded[position] = rescue.for_graph(content, self._max_pixels)
            except Unreadable as error:
                answers.errors[position] = first_line(error)
        self._predict_encoded(0, encoded, answers)
        return answers

    def _on_device(self, index: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function on one of the devices."""
        device = self._devices[index]
        with self._tf.device(device) if device else contextlib.nullcontext():
            return function(*arguments, **options)

    def score(self, count: int, read: Callable[[int], bytes], batch_size: int) -> Iterator[PredictionBatch]:
        """Yield the answers to batches of ``count`` images, in order; images are read while the model runs.

        Args:
            count: number of images.
            read: returns the encoded image of an index below ``count``, or raises OSError or AccessDenied for
                its own fault; any other error ends the scoring.
            batch_size: images scored at a time.
        """
        pool = DaemonPool(_READERS)
        try:
            yield from self._in_order(
                functools.partial(
                    self._predict_files,
                    start=start,
                    contents=[
                        pool.submit(self._read, read, index) for index in range(start, min(start + batch_size, count))
                    ],
                )
                for start in range(0, count, batch_size)
            )
        finally:  # A caller that stops early must not wait for files that are no longer needed, nor for one that hangs.
            pool.shutdown(cancel_futures=True)

    def _read(self, read: Callable[[int], bytes], index: int) -> bytes:
        """Return an image as the graph takes it: what training reads and the graph does not becomes a PNG."""
        return rescue.for_graph(read(index), self._max_pixels)

    def score_pixels(self, batches: Iterator[Pixels]) -> Iterator[PredictionBatch]:
        """Yield the answers to batches of ``[n, H, W, 3]`` RGB images, in order; only a few are taken in advance.

        Raises:
            RequestError: if the export does not take pixels.
        """
        if "serve_images" not in self._models[0].signatures:
            raise RequestError(
                "--model_dir: expected an export with the signature serve_images; export the model again"
            )
        yield from self._in_order(functools.partial(self._predict_pixels, images=images) for images in batches)

    def _predict_pixels(self, device: int, *, images: Pixels) -> PredictionBatch:
        output = self._on_device(
            device, self._models[device].signatures["serve_images"], images=self._tf.constant(images, self._tf.uint8)
        )
        answers = PredictionBatch(0, np.zeros([len(images), self._num_classes], np.float32), [""] * len(images), {})
        self._store(output, range(len(images)), answers)
        return answers

    def _in_order(self, jobs: Iterator[Callable[[int], PredictionBatch]]) -> Iterator[PredictionBatch]:
        """Yield the results of jobs in order; each is called with a device's index, and few are taken in advance."""
        # One thread per device keeps a device's batches in sequence; the queue keeps the results in order.
        pools = [DaemonPool(1) for _ in self._devices]
        pending: collections.deque[Future[PredictionBatch]] = collections.deque()
        try:
            for number, job in enumerate(jobs):
                device = number % len(pools)
                pending.append(pools[device].submit(job, device))
                while pending and (pending[0].done() or len(pending) >= len(pools) + _BATCHES_AHEAD):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)

    def _predict_files(self, device: int, *, start: int, contents: Sequence["Future[bytes]"]) -> PredictionBatch:
        count = len(contents)
        answers = PredictionBatch(start, np.zeros([count, self._num_classes], np.float32), [""] * count, {})
        encoded: dict[int, bytes] = {}
        for position, content in enumerate(contents):
            try:
                encoded[position] = content.result()
            except (OSError, AccessDenied, Unreadable) as error:
                answers.errors[position] = first_line(error)
        self._predict_encoded(device, encoded, answers)
        return answers

    def _predict_encoded(self, device: int, encoded: dict[int, bytes], answers: PredictionBatch) -> None:
        """Score ``{position: bytes}`` into ``answers``; a batch that fails is halved until the bad image is alone."""
        if not encoded:
            return
        positions = list(encoded)
        try:
            contents = self._tf.constant(list(encoded.values()), self._tf.string)
            output = self._on_device(device, self._models[device].signatures[self._signature], image_bytes=contents)
        except self._tf.errors.InvalidArgumentError as error:  # Others, such as no memory, are not an image's fault.
            if len(positions) == 1:
                self._predict_unusual(device, positions[0], encoded[positions[0]], answers, error)
                return
            for half in (positions[: len(positions) // 2], positions[len(positions) // 2 :]):
                self._predict_encoded(device, {position: encoded[position] for position in half}, answers)
            return
        self._store(output, positions, answers)

    def _predict_unusual(
        self, device: int, position: int, content: bytes, answers: PredictionBatch, error: Exception
    ) -> None:
        """Score an image that the graph refused as the PNG that ``rescue`` makes of it, or store the reason."""
        reason, png = first_line(error), b""
        if "--max_image_pixels" not in reason:
            try:
                png = rescue.as_png(content, self._max_pixels)
            except Unreadable:
                reason = image_format.damaged(image_format.name(content), reason)
        if not png or png == content:  # Then the graph has just refused this very PNG.
            answers.errors[position] = reason
            return
        self._predict_encoded(device, {position: png}, answers)

    def _store(self, output: dict[str, Any], positions: Sequence[int], answers: PredictionBatch) -> None:
        """Store a signature's outputs at their positions in a batch."""
        for position, probabilities, label in zip(
            positions, output["probabilities"].numpy(), output["label"].numpy(), strict=True
        ):
            if label.decode() not in self._export.class_names:
                raise _other_classes(self._export, f"whose answer is {label.decode()!r}")
            if np.isfinite(probabilities).all():
                answers.probabilities[position] = probabilities
                answers.labels[position] = label.decode()
            else:
                answers.errors[position] = NOT_FINITE
        if "heatmap" in output:
            answers.heatmaps.update(zip(positions, output["heatmap"].numpy(), strict=True))


def _may_pass(tf: Any) -> tuple[type[Exception], ...]:
    """Return the errors that TensorFlow makes of transient errnos and a lack of memory, never of a damaged file."""
    errors = tf.errors
    return (errors.ResourceExhaustedError, errors.DeadlineExceededError, errors.UnavailableError, errors.AbortedError,
            errors.UnknownError)  # fmt: skip


def _refuse_other_classes(export: ExportedModel, signature: Any) -> None:
    """Refuse metadata that name more or fewer classes than the model answers with."""
    output = signature.structured_outputs.get("probabilities")
    if output is not None and output.shape.rank == 2 and output.shape[1] not in (None, len(export.class_names)):
        raise _other_classes(export, f"which has {output.shape[1]}")


def _other_classes(export: ExportedModel, model: str) -> RequestError:
    return RequestError(
        f"--model_dir: expected deepdetect.json of {export.path!r} to name the classes of its model, {model}, received "
        f"{', '.join(export.class_names)}; restore the file, or export the model again"
    )


def _devices(tf: Any, requested: int) -> list[str]:
    """Return the names of the devices to score on; "" is TensorFlow's default.

    Raises:
        RequestError: if there are fewer GPUs than requested.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus and requested > gpus:
        raise RequestError(f"--num_devices: expected at most the {gpus} GPUs of this machine, received {requested}")
    count = requested or gpus or 1
    if count == 1:
        return [""]
    if not gpus:
        keras_settings.load()
        from trainer.distributed import strategy

        strategy.make_logical_cpus(count)
    return [f"{'GPU' if gpus else 'CPU'}:{number}" for number in range(count)]


def first_line(error: BaseException) -> str:
    """Return an error's message in one line, without the names of graph nodes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(getattr(error, "message", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    # TensorFlow's lines: where in the graph, what went wrong, the node's name in brackets.
    nodes = [number for number, line in enumerate(lines) if line.startswith("[[")]
    line = lines[nodes[0] - 1] if nodes and nodes[0] else lines[0]
    return line.split("}} ", 1)[-1].split(" [Op:", 1)[0][:300]
