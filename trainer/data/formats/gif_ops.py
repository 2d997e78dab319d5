"""Cut a GIF behind its first frame with TensorFlow's operations: TensorFlow would decode all of them.

A GIF is taken only if its first frame covers the screen and nothing in it is transparent; composing others is not for
a graph.
"""

import tensorflow as tf

from trainer.data.formats.tensor_bytes import digits, number, piece

_STEPS = 2**17  # Blocks of up to 255 bytes that are looked at.
# What stands at the place that a walk has come to.
_BLOCK, _EXTENSION_DATA, _IMAGE_DATA, _END = range(4)
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_DESCRIPTOR = 10  # Bytes of an image descriptor, its first byte included.

_REFUSED = (
    "GIF whose first frame is transparent, cut off, or not of its screen's size is not supported here; save it as PNG"
)


def first_frame(data: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Return the GIF of the first frame alone; fails with the reason if it is not taken."""
    flags = number(header, 10, 1)
    state, end, frame, is_transparent = _walk(data, 13 + _table(flags))
    descriptor = tf.strings.join([piece(data, frame, _DESCRIPTOR), b"\0" * _DESCRIPTOR])
    corner, size = piece(descriptor, 1, 4), piece(descriptor, 5, 4)
    is_plain = (state == _END) & ~is_transparent & (corner == b"\0" * 4) & (size == piece(header, 6, 4))
    with tf.control_dependencies([tf.debugging.Assert(is_plain, [_REFUSED], summarize=1)]):
        return tf.strings.join([piece(data, 0, end), b";"])


def _table(flags: tf.Tensor) -> tf.Tensor:
    """Return the length in bytes of the colour table that flags announce."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8), 0)


def _walk(data: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return where the walk over the blocks ended, its place, the place of the image, and if it is transparent."""
    length = tf.cast(tf.strings.length(data), tf.int64)

    def goes_on(state: tf.Tensor, at: tf.Tensor, frame: tf.Tensor, is_transparent: tf.Tensor) -> tf.Tensor:
        return (state != _END) & (at + 1 < length)

    def step(state: tf.Tensor, at: tf.Tensor, frame: tf.Tensor, is_transparent: tf.Tensor) -> tuple[tf.Tensor, ...]:
        block = tf.concat([digits(data, at, _DESCRIPTOR), tf.zeros([_DESCRIPTOR], tf.int64)], 0)
        first = block[0]
        is_extension = (state == _BLOCK) & (first == _EXTENSION)
        is_image = (state == _BLOCK) & (first == _IMAGE)
        is_control = is_extension & (block[1] == _GRAPHIC_CONTROL)
        # Anything else ends the walk before an image: beyond the end of the data, as that of a file cut off.
        size = tf.where(state == _BLOCK, length, first + 1)
        size = tf.where(is_image, _DESCRIPTOR + _table(block[9]) + 1, size)
        size = tf.where(is_extension, tf.constant(2, tf.int64), size)
        after_data = tf.where(first > 0, state, tf.where(state == _IMAGE_DATA, _END, _BLOCK))
        following = tf.where(is_extension, _EXTENSION_DATA, tf.where(is_image, _IMAGE_DATA, after_data))
        transparent = tf.where(is_control, block[3] % 2 == 1, is_transparent)
        return following, at + size, tf.where(is_image, at, frame), transparent

    begin = (tf.constant(_BLOCK), start, tf.constant(0, tf.int64), tf.constant(False))
    return tf.while_loop(goes_on, step, begin, maximum_iterations=_STEPS, parallel_iterations=1)  # type: ignore[no-any-return]
