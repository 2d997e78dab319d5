"""Write a self-contained SavedModel: decoding, resizing or cropping, scaling and class names are part of it.

An export gets its final name only after a new process, which imports nothing of this package, has loaded it beside that
name and reproduced the live model's probabilities.  For a bucket that process loads the local copy, and the uploaded
objects are compared with it before the one that makes them an export.
Owns: signatures and their metadata.  Does not own: which weights to export.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.arrays import MODEL_PREFIX, Arrays
from trainer.core.config import MAX_IMAGE_PIXELS, ModelConfig
from trainer.core.errors import JobFailed
from trainer.core.job_dir import EXPORT_CARD, EXPORT_METADATA, MODEL_FILE
from trainer.core.storage import files
from trainer.data import decode, decode_batch, input_rule
from trainer.data.formats import rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.input_rule import InputRule
from trainer.models import preprocess, registry
from trainer.serving import grad_cam, verify_saved_model
from trainer.serving import temperature as temperature_lib


class ServingModel(tf.Module):  # type: ignore[misc]
    """The signatures of an export around its model.

    All return ``probabilities [N, C] float32``, ``label [N] string`` and ``p_fake [N] float32``, the probability of
    the positive class.
    """

    def __init__(
        self,
        model: keras.Model,
        class_names: Sequence[str],
        positive: int,
        threshold: float,
        rule: InputRule,
        temperature: float = 1.0,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        super().__init__(name="deepdetect")
        self.model = model
        self._names = tf.constant(list(class_names))
        self._binary = len(class_names) == 2
        self._positive = positive
        self._threshold = threshold
        self._rule = rule
        self._temperature = temperature
        self.max_pixels = max_pixels
        self._looked_at = grad_cam.feature_layer(model)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score encoded images of any format that ``decode`` supports."""
        return self._score(self._decoded(image_bytes))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")], autograph=False)
    def serve_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score RGB pixels of any size in [0, 255]."""
        return self._score(self.to_input(images))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def explain(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score encoded images, and add ``heatmap [N, S, S] float32`` in [0, 1]: what contributed to the label.

        Of several views, the map is of the centre.
        """
        images = self._decoded(image_bytes)
        answers = self._score(images)
        of = tf.argmax(tf.equal(answers["label"][:, tf.newaxis], self._names), axis=1)
        pixels = preprocess.to_unit_range(images if self._rule.views == 1 else images[:, 0])
        return {**answers, "heatmap": grad_cam.grad_cam(self.model, self._looked_at, pixels, of, self._rule.size)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def _decoded(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Return the model input of encoded images; a function of its own, so that exports hold its operations once."""
        return decode.decode_batch(image_bytes, self._rule, self.max_pixels)

    def of_pixels(self) -> Any:
        """Return a function of one view of each image, ``images [N, S, S, 3] uint8``, that returns probabilities."""
        signature = [tf.TensorSpec([None, *self._rule.one_view.shape], tf.uint8, name="images")]
        return tf.function(self.probabilities, input_signature=signature, autograph=False)

    def of_one_view(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return what ``of_pixels`` gives on a CPU."""
        with tf.device("/CPU:0"):
            return np.asarray(self.probabilities(tf.constant(images)))

    @property
    def temperature(self) -> float:
        """By which the logits are divided."""
        return self._temperature

    @property
    def signatures(self) -> dict[str, Any]:
        """The functions by the names under which they are served; ``explain`` if the model has a feature map."""
        always = {"serving_default": self.serve_bytes, "serve_images": self.serve_images}
        return always if self._looked_at is None else {**always, "explain": self.explain}

    @property
    def explains(self) -> dict[str, str | None]:
        """The entry of ``deepdetect.json`` about heat maps."""
        if self._looked_at is None:
            return {"method": None, "because": "the model has no convolutional feature map"}
        return {"method": "Grad-CAM", "layer": self._looked_at.name, "of": "label"}

    def probabilities(self, images: tf.Tensor) -> tf.Tensor:
        """Return ``[N, C]`` of model input ``[N, S, S, 3]`` or ``[N, V, S, S, 3]`` uint8.

        The temperature (``temperature.temper``) comes after the mean over the views, of which it was chosen.
        """
        probabilities = preprocess.probabilities(self.model, images)
        if self._temperature == 1.0:
            return probabilities
        return tf.nn.softmax(tf.math.log(tf.maximum(probabilities, temperature_lib.SMALLEST)) / self._temperature)

    def to_input(self, images: tf.Tensor) -> tf.Tensor:
        """Return the model input of RGB pixels ``[N, H, W, 3]`` uint8."""
        return decode.to_input(images, self._rule)

    def _score(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = self.probabilities(images)
        p_fake = probabilities[:, self._positive]
        if self._binary:
            predicted = tf.where(p_fake >= self._threshold, self._positive, 1 - self._positive)
        else:
            predicted = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        return {"probabilities": probabilities, "label": tf.gather(self._names, predicted), "p_fake": p_fake}


def write(
    target: str,
    arrays: Arrays,
    metadata: dict[str, Any],
    samples: Sequence[bytes],
    *,
    config: ModelConfig,
    image_size: int,
    card: str = "",
) -> float:
    """Export weights into ``target`` (a version folder) and return the largest difference that the check found.

    Args:
        target: such as ``export/best/<step>``; replaced if it exists.
        arrays: a checkpoint's arrays; those under ``model/`` are used.
        metadata: written next to the model; must hold ``class_names``, ``positive_class`` and ``threshold``; a
            ``temperature`` and the rule of ``input`` become part of the model.
        samples: encoded images for the comparison; undecodable ones are ignored.
        config: architecture.
        image_size: S.
        card: text of ``model_card.md``; empty: none is written.

    Raises:
        JobFailed: if the reloaded model differs from the live one.
    """
    serving = serving_model(arrays, metadata, config, image_size)
    with tempfile.TemporaryDirectory() as scratch:
        built = os.path.join(scratch, "model")
        tf.saved_model.save(serving, built, signatures=serving.signatures)
        limit = max_pixels(metadata)
        content = json.dumps({**metadata, "explain": serving.explains, "max_image_pixels": limit}, indent=1)
        files.write_text(files.join(built, EXPORT_METADATA), content)
        if card:
            files.write_text(files.join(built, EXPORT_CARD), card)
        check = _Check(serving, _for_graph(samples, limit), _rule(metadata, image_size), scratch)
        files.publish(built, target, last=MODEL_FILE, check=check)
    return check.difference


def serving_model(arrays: Arrays, metadata: dict[str, Any], config: ModelConfig, image_size: int) -> ServingModel:
    """Return the module that ``write`` exports; arguments as there."""
    names = metadata["class_names"]
    model = live_model(arrays, config, num_classes=len(names), image_size=image_size)
    positive = names.index(metadata["positive_class"])
    temperature = metadata.get("temperature", 1.0)
    limit = max_pixels(metadata)
    rule = _rule(metadata, image_size)
    return ServingModel(model, names, positive, metadata["threshold"], rule, temperature, limit)


def _rule(metadata: dict[str, Any], image_size: int) -> InputRule:
    return input_rule.of_export({**metadata, "image_size": image_size})


def max_pixels(metadata: dict[str, Any]) -> int:
    """Return the largest number of pixels that an export decodes: the training's ``--max_image_pixels``."""
    settings = metadata.get("config") or {}
    return int(metadata.get("max_image_pixels") or settings.get("max_image_pixels") or MAX_IMAGE_PIXELS)


def _for_graph(samples: Sequence[bytes], limit: int) -> list[bytes]:
    """Return the readable samples as the graph takes them."""
    good = []
    for sample in samples:
        with contextlib.suppress(Unreadable):
            content = rescue.for_graph(sample, limit)
            try:
                decode.decode_one(limit)(tf.constant(content))
            except tf.errors.InvalidArgumentError:
                content = rescue.as_png(content, limit)
            good.append(content)
    return good


def live_model(arrays: Arrays, config: ModelConfig, *, num_classes: int, image_size: int) -> keras.Model:
    """Return the model with a checkpoint's weights, in float32 on the default device.

    An export is float32 whatever the training precision: the weights are float32, and a CPU serves float32 faster.
    """
    with _float32_policy():
        model = registry.build(config, num_classes=num_classes, image_size=image_size, seed=0)
    for variable in model.variables:
        variable.assign(arrays[MODEL_PREFIX + variable.path])
    return model


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


class _Check:
    """Runs ``verify_saved_model.py`` on a folder, and keeps the largest difference of a probability."""

    def __init__(self, serving: ServingModel, samples: Sequence[bytes], rule: InputRule, scratch: str) -> None:
        """Write the samples with the live model's answers into ``scratch``."""
        self.difference = 0.0
        self._samples = os.path.join(scratch, "samples.npz")
        loaded = decode_batch.load_batch(samples, rule, serving.max_pixels)
        good = [i for i in range(len(samples)) if i not in loaded.errors]
        views = loaded.images[good]
        images = views if rule.views == 1 else views[:, 0]
        with tf.device("/CPU:0"):
            of_files = serving.probabilities(tf.constant(views)).numpy()
            of_images = serving.probabilities(serving.to_input(tf.constant(images))).numpy()
        encoded = _rows([samples[i] for i in good])
        np.savez(self._samples, encoded=encoded, images=images, probabilities=of_files, of_images=of_images)

    def __call__(self, folder: str) -> None:
        """Load the folder in a fresh process and compare.

        Raises:
            JobFailed: if there is a difference, or the model does not load.
        """
        # -P: the script's folder is not on the path.  Not -I: TensorFlow may come from PYTHONPATH, as with HPC modules.
        command = [sys.executable, "-P", verify_saved_model.__file__, folder, self._samples]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise JobFailed(f"the exported model failed its check: {done.stdout.strip() or done.stderr[-2000:]}")
        self.difference = float(done.stdout.split()[-1])


def _rows(contents: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Return bytes of different lengths as rows: 8 bytes of length (little endian), the content, zeros."""
    width = 8 + max(map(len, contents), default=0)
    rows = [len(content).to_bytes(8, "little") + content.ljust(width - 8, b"\0") for content in contents]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(contents), width)
