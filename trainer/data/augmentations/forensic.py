"""Blur, JPEG recompression and flip, each for a share of the images, on the host (it needs a JPEG encoder).

Wang et al. 2020, "CNN-generated images are surprisingly easy to spot... for now", arXiv:1912.11035, section 3.2:
"Blur+JPEG (0.5)": sigma ~ U[0, 3] pixels and quality ~ U{30, ..., 100}, each with probability 0.5; "Blur+JPEG (0.1)"
has probability 0.1.  Half of the images are mirrored.
"""

import tensorflow as tf

from trainer.core.config import AugmentConfig

HELP = "blur, JPEG recompression and flip, each for half of the images (Wang et al. 2020)."
ORDER = 1

MAX_BLUR_SIGMA = 3.0
JPEG_QUALITY = (30, 100)
_BLUR_RADIUS = 9  # Three times the largest sigma: the tail that is left out weighs less than 0.3 %.


DEFAULTS = AugmentConfig()


def host(images: tf.Tensor, draws: tf.Tensor, config: AugmentConfig = DEFAULTS) -> tf.Tensor:
    """Blur, recompress and flip ``[N, S, S, 3]`` uint8 on the host, each for a share of the images."""
    return tf.map_fn(
        lambda pair: _augment(pair[0], pair[1], config),
        (images, draws),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8),
    )


def _augment(image: tf.Tensor, draws: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Return one image ``[S, S, 3]`` uint8, changed as its draws ``[DRAWS]`` say."""
    image = tf.cond(draws[0] < config.blur_probability, lambda: _blur(image, draws[1] * MAX_BLUR_SIGMA), lambda: image)
    # Each draw decides one thing, whatever the others decide.
    low, high = JPEG_QUALITY
    quality = low + tf.cast(draws[3] * (high - low + 1), tf.int32)
    image = tf.cond(draws[2] < config.jpeg_probability, lambda: _recompress(image, quality), lambda: image)
    return tf.cond(draws[4] < 0.5, lambda: image[:, ::-1], lambda: image)


def _recompress(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    again = tf.image.adjust_jpeg_quality(image, quality, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(again, image.shape)


def _blur(image: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blur ``[S, S, 3]`` uint8 with a separable Gaussian of ``sigma`` pixels; edges are mirrored."""
    # A kernel for each sigma; a sigma of 0 leaves the middle tap alone.
    taps = tf.range(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(taps / tf.maximum(sigma, 1e-3)))
    kernel = tf.tile((weights / tf.reduce_sum(weights))[:, None, None, None], [1, 1, 3, 1])
    # Rows, then columns, in float32; rounded back to grey levels.
    pad = [[_BLUR_RADIUS, _BLUR_RADIUS], [_BLUR_RADIUS, _BLUR_RADIUS], [0, 0]]
    padded = tf.pad(tf.cast(image, tf.float32), pad, mode="SYMMETRIC")[None]
    rows = tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")
    both = tf.nn.depthwise_conv2d(rows, tf.transpose(kernel, [1, 0, 2, 3]), [1, 1, 1, 1], "VALID")
    return tf.ensure_shape(tf.cast(tf.clip_by_value(tf.round(both[0]), 0.0, 255.0), tf.uint8), image.shape)
