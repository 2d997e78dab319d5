"""An export with predictable scores: its probabilities are the image's mean colours."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.data import decode
from trainer.data.input_rule import InputRule

SIZE = 16


class MeanColour(tf.Module):
    """Two classes: p_fake is mean red / 255.  Three: the shares of red, green and blue."""

    def __init__(self, class_names: list[str], threshold: float):
        super().__init__()
        self.names, self.threshold = tf.constant(class_names), threshold
        self.binary = len(class_names) == 2

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes):
        return self._score(decode.decode_batch(image_bytes, InputRule(SIZE)))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")], autograph=False)
    def serve_images(self, images):
        return self._score(images)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def explain(self, image_bytes):
        """Return the red channel as the heat map, whatever the label is."""
        images = decode.decode_batch(image_bytes, InputRule(SIZE))
        return {**self._score(images), "heatmap": tf.cast(images[..., 0], tf.float32) / 255.0}

    def _score(self, images):
        means = tf.reduce_mean(tf.cast(images, tf.float32) / 255.0, axis=[1, 2])
        if self.binary:
            probabilities = tf.stack([means[:, 0], 1.0 - means[:, 0]], axis=1)
            predicted = tf.where(means[:, 0] >= self.threshold, 0, 1)
        else:
            probabilities = means / tf.reduce_sum(means, axis=1, keepdims=True)
            predicted = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        return {
            "probabilities": probabilities,
            "label": tf.gather(self.names, predicted),
            "p_fake": probabilities[:, 0],
        }


def write_export(
    folder: Path, class_names: list[str], threshold: float = 0.5, explains: bool = False, **details: Any
) -> str:
    """Write the version ``folder``; the first class is the positive one.

    Without ``explains`` the export is like those of older versions.  ``details`` are added to its metadata.
    """
    shutil.copytree(_saved_model(tuple(class_names), threshold, explains), folder, dirs_exist_ok=True)
    metadata = {
        "format": 1,
        "class_names": class_names,
        "positive_class": class_names[0],
        "threshold": threshold,
        "image_size": SIZE,
        "step": 120,
        "epoch": 4,
        "monitor": "val_loss",
        "config": {"epochs": 5, "model": "cnn"},
        **details,
    }
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "deepdetect.json").write_text(json.dumps(metadata))
    return str(folder)


@functools.cache
def _saved_model(class_names: tuple[str, ...], threshold: float, explains: bool) -> str:
    """Return a folder with the SavedModel; each kind is traced once in a test process, which takes seconds."""
    folder = tempfile.mkdtemp(prefix="tiny_export_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model = MeanColour(list(class_names), threshold)
    signatures = {"serving_default": model.serve_bytes, "serve_images": model.serve_images}
    if explains:
        signatures["explain"] = model.explain
    tf.saved_model.save(model, folder, signatures=signatures)
    return folder


def write_image(path: Path, colour: tuple[int, int, int], size: int = SIZE) -> None:
    """Write a PNG of one colour, so that its mean colour is exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full([size, size, 3], colour, np.uint8)).save(path, format="PNG")
