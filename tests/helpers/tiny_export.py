"""A SavedModel of the contract whose scores can be foretold: probabilities are the image's mean colours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.data import decode

SIZE = 16


class MeanColour(tf.Module):
    """Two classes: p_fake is mean red / 255.  Three: the shares of red, green and blue."""

    def __init__(self, class_names: list[str], threshold: float):
        super().__init__()
        self.names, self.threshold = tf.constant(class_names), threshold
        self.binary = len(class_names) == 2

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes):
        return self._score(decode.decode_batch(image_bytes, SIZE))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")], autograph=False)
    def serve_images(self, images):
        return self._score(images)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def explain(self, image_bytes):
        """Return a heat map of what is red, whatever the label."""
        images = decode.decode_batch(image_bytes, SIZE)
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
    """Write version ``folder``; the first class is the positive one.  Without ``explains`` it is as old ones were."""
    model = MeanColour(class_names, threshold)
    signatures = {"serving_default": model.serve_bytes, "serve_images": model.serve_images}
    if explains:
        signatures["explain"] = model.explain
    tf.saved_model.save(model, str(folder), signatures=signatures)
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


def write_image(path: Path, colour: tuple[int, int, int], size: int = SIZE) -> None:
    """Write a plain PNG, so that its mean colour is exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full([size, size, 3], colour, np.uint8)).save(path, format="PNG")
