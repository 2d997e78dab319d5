"""An export in use: find it, read what it says of itself, score image files with it.

Knows nothing of training: an export stands alone.  TensorFlow is imported when a model is loaded, so a wrong
``--model_dir`` is answered at once.
Owns: batching, reading ahead, finding the bad image of a batch.  Does not own: which images there are.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import files
from trainer.errors import RequestError
from trainer.paths import EXPORT_METADATA, MODEL_FILE

_READERS = 32  # Threads; they wait for disk or network, not for a core.
_BATCHES_AHEAD = 2

Probabilities = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Export:
    """What an export says of itself.

    Attributes:
        path: the version folder.
        class_names: in the order of the probabilities' columns.
        positive_class: the class that p_fake is the probability of.
        threshold: of two classes, the positive one is answered from this p_fake up.
        details: the whole ``deepdetect.json``.
    """

    path: str
    class_names: tuple[str, ...]
    positive_class: str
    threshold: float
    details: dict[str, Any]

    @property
    def positive(self) -> int:
        """Column of the positive class."""
        return self.class_names.index(self.positive_class)


def find_export(model_dir: str) -> Export:
    """Return the export in a version folder, or the newest version of a folder such as ``J/export/best``.

    Raises:
        RequestError: if there is none, or it does not say what it is.
    """
    if not model_dir:
        raise RequestError("expected --model_dir, received none; give a job's export/best folder")
    if files.exists(files.join(model_dir, MODEL_FILE)):
        return _describe(model_dir)
    versions = [name for name in files.list_names(model_dir) if name.isdecimal()]
    for name in sorted(versions, key=int, reverse=True):
        if files.exists(files.join(model_dir, name, MODEL_FILE)):
            return _describe(files.join(model_dir, name))
    found = "a folder without either" if files.is_dir(model_dir) else "no such folder"
    raise RequestError(
        f"--model_dir: expected an exported model ({MODEL_FILE}) or a folder of numbered ones, such as "
        f"J/export/best, received {model_dir!r} ({found}); train first, or check the path"
    )


def _describe(path: str) -> Export:
    file = files.join(path, EXPORT_METADATA)
    problem = ""
    try:
        details = json.loads(files.read_text(file))
        export = Export(
            path,
            tuple(str(name) for name in details["class_names"]),
            str(details["positive_class"]),
            float(details["threshold"]),
            details,
        )
        if len(export.class_names) < 2 or export.positive_class not in export.class_names:
            problem = f"classes {export.class_names} with the positive class {export.positive_class!r}"
    except KeyError as error:
        problem = f"no {error} in it"
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
    if problem:
        raise RequestError(
            f"--model_dir: expected {file} to name classes, positive class and threshold, received "
            f"{problem}; export the model again"
        )
    return export


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to one batch of files.

    Attributes:
        start: number of the batch's first image.
        probabilities: ``[n, C]``; rows of bad images are zeros.
        labels: ``[n]`` class names, as the export decides; "" for bad images.
        errors: why an image has no answer, by position in the batch.
    """

    start: int
    probabilities: Probabilities
    labels: list[str]
    errors: dict[int, str]


class Scorer:
    """A loaded export."""

    def __init__(self, export: Export) -> None:
        """Load the model onto the default device.

        Raises:
            RequestError: if the folder holds no model that loads.
        """
        import tensorflow as tf  # Late: what comes before needs no TensorFlow.

        self._tf = tf
        self._num_classes = len(export.class_names)
        try:
            with files.local_copy(export.path) as folder:
                self._loaded = tf.saved_model.load(folder)
            self._serve: Callable[..., dict[str, Any]] = self._loaded.signatures["serving_default"]
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            raise RequestError(
                f"--model_dir: expected a SavedModel with the signature serving_default in {export.path!r}, "
                f"received {first_line(error)}; export the model again"
            ) from error

    def score(self, count: int, read: Callable[[int], bytes], batch_size: int) -> Iterator[Answers]:
        """Yield the answers to batches of ``count`` images, in order; they are read while the model works.

        Args:
            count: images.
            read: returns the encoded image of a number below ``count``, or raises OSError.
            batch_size: images scored at a time.
        """
        starts = iter(range(0, count, batch_size))
        ahead: collections.deque[tuple[int, list[Future[bytes]]]] = collections.deque()
        with ThreadPoolExecutor(_READERS) as pool:
            try:
                while True:
                    while len(ahead) <= _BATCHES_AHEAD and (start := next(starts, None)) is not None:
                        numbers = range(start, min(start + batch_size, count))
                        ahead.append((start, [pool.submit(read, number) for number in numbers]))
                    if not ahead:
                        return
                    yield self._answer(*ahead.popleft())
            finally:  # Whoever stops early does not wait for files that nobody needs.
                pool.shutdown(wait=False, cancel_futures=True)

    def score_pixels(self, images: npt.NDArray[np.uint8]) -> Probabilities:
        """Return probabilities ``[n, C]`` of RGB pixels ``[n, H, W, 3]``.

        Raises:
            RequestError: if the model does not take pixels.
        """
        if "serve_images" not in self._loaded.signatures:
            raise RequestError(
                "--model_dir: expected a SavedModel with the signature serve_images, received none; export it again"
            )
        output = self._loaded.signatures["serve_images"](images=self._tf.constant(images))
        return np.asarray(output["probabilities"].numpy(), np.float32)

    def _answer(self, start: int, contents: Sequence["Future[bytes]"]) -> Answers:
        count = len(contents)
        answers = Answers(start, np.zeros([count, self._num_classes], np.float32), [""] * count, {})
        encoded: dict[int, bytes] = {}
        for position, content in enumerate(contents):
            try:
                encoded[position] = content.result()
            except (OSError, self._tf.errors.OpError) as error:
                answers.errors[position] = first_line(error)
        self._fill(encoded, answers)
        return answers

    def _fill(self, encoded: dict[int, bytes], answers: Answers) -> None:
        """Score ``{position: bytes}`` into ``answers``; a failing group is halved until one is left."""
        if not encoded:
            return
        positions = list(encoded)
        try:
            output = self._serve(image_bytes=self._tf.constant(list(encoded.values()), self._tf.string))
        except self._tf.errors.ResourceExhaustedError:
            raise  # The batch is too large for the memory; no image is to blame.
        except self._tf.errors.OpError as error:
            if len(positions) == 1:
                answers.errors[positions[0]] = first_line(error)
                return
            for half in (positions[: len(positions) // 2], positions[len(positions) // 2 :]):
                self._fill({position: encoded[position] for position in half}, answers)
            return
        for position, probabilities, label in zip(
            positions, output["probabilities"].numpy(), output["label"].numpy(), strict=True
        ):
            if np.isfinite(probabilities).all():
                answers.probabilities[position], answers.labels[position] = probabilities, label.decode()
            else:
                answers.errors[position] = "the model's answer is not a number"


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
