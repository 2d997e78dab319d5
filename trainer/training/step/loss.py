"""What a step minimises, example by example: cross-entropy or focal loss, smoothed labels, soft targets, class weights.

Owns: the loss of an example and how much it counts.  Does not own: sums and means over examples (``train_step.py``).
"""

from collections.abc import Sequence

import tensorflow as tf

from trainer.core.config import LossConfig

# Keeps the gradient of (1 - p)^gamma finite where p is 1.
_SMALLEST_DOUBT = 1e-12


class Loss:
    """The loss of single examples, as functions of their logits.

    ``labels`` are ``[b] int32`` classes or ``[b, C] float32`` shares of the classes that sum to 1 (soft targets).
    """

    def __init__(self, config: LossConfig, class_weights: Sequence[float] | None = None) -> None:
        """Bind the settings, and how much an example of each class counts; None: all alike."""
        self._config = config
        self._class_weights = class_weights
        self._is_plain = config.loss == "crossentropy" and not config.label_smoothing

    def importance(self, labels: tf.Tensor) -> tf.Tensor | None:
        """Return how much each example counts, ``[b] float32``; None if all count alike."""
        if self._class_weights is None:
            return None
        weights = tf.constant(self._class_weights, tf.float32)
        return tf.gather(weights, labels) if labels.dtype.is_integer else tf.linalg.matvec(labels, weights)

    def minimised(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return what is minimised, ``[b] float32``, without ``importance``."""
        if self._is_plain:
            return cross_entropy(labels, logits)
        targets = smoothed(labels, logits.shape[-1], self._config.label_smoothing)
        return focal(targets, logits, self._config.focal_gamma if self._config.loss == "focal" else 0.0)


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return ``[b]``: nats; what logs and StepStats report, whatever is minimised."""
    if labels.dtype.is_integer:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.nn.softmax_cross_entropy_with_logits(labels, logits)


def smoothed(labels: tf.Tensor, classes: int, share: float) -> tf.Tensor:
    """Return ``[b, C]``: the labels with a share spread over all classes (Szegedy et al. 2016, arXiv:1512.00567)."""
    targets = tf.one_hot(labels, classes) if labels.dtype.is_integer else labels
    return targets * (1.0 - share) + share / classes


def focal(targets: tf.Tensor, logits: tf.Tensor, gamma: float) -> tf.Tensor:
    """Return ``[b]``: ``-sum_c t_c (1 - p_c)^gamma log p_c`` (Lin et al. 2017, arXiv:1708.02002, eq. 4)."""
    if not gamma:
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    log_p = tf.nn.log_softmax(logits)
    doubt = tf.maximum(-tf.math.expm1(log_p), _SMALLEST_DOUBT)
    return -tf.reduce_sum(targets * doubt**gamma * log_p, axis=-1)
