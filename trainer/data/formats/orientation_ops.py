"""``orientation.of`` with TensorFlow's operations, for the graph of an export.

Most images have no metadata; a search for its names costs less than the walk over their segments.
"""

from collections.abc import Callable

import tensorflow as tf

from trainer.data.formats import orientation
from trainer.data.formats.tensor_bytes import behind, digits, first_bytes, number, piece, starts_with, value

Step = Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]

# As regular expressions of RE2, where \C is any byte.
_NAMED_IN_JPEG = r"\C*(?:Exif\x00\x00|tiff:Orientation)\C*"
_NAMED_IN_PNG = r"\C*(?:eXIf|tiff:Orientation)\C*"
_XMP = r'^\C*?tiff:Orientation(?:="|>)([0-9])\C*$'
_SEARCHED_BYTES = 2**18  # A walk over longer files costs less than the search.


def of(data: tf.Tensor) -> tf.Tensor:
    """Return the orientation of an encoded image, 1 to 8, int64."""
    start = first_bytes(data, 16)
    is_webp = starts_with(start, b"WEBPVP8X", 8)
    exif, xmp = tf.case(
        [
            (starts_with(start, b"\xff\xd8\xff"), lambda: _walk_if_named(data, 2, _segment, _NAMED_IN_JPEG)),
            (starts_with(start, b"\x89PN"), lambda: _walk_if_named(data, 8, _chunk, _NAMED_IN_PNG)),
            (is_webp, lambda: _walk(data, 12, _riff_chunk)),
        ],
        default=_nothing,
    )
    is_empty = (exif == b"") & (xmp == b"")
    return tf.cond(is_empty, lambda: tf.constant(1, tf.int64), lambda: _orientation(exif, xmp))


def _nothing() -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(b""), tf.constant(b"")


def _walk_if_named(data: tf.Tensor, start: int, step: Step, names: str) -> tuple[tf.Tensor, tf.Tensor]:
    is_short = tf.strings.length(data) <= _SEARCHED_BYTES
    has_name = tf.cond(is_short, lambda: tf.strings.regex_full_match(data, names), lambda: tf.constant(True))
    return tf.cond(has_name, lambda: _walk(data, start, step), _nothing)  # type: ignore[no-any-return]


def _walk(data: tf.Tensor, start: int, step: Step) -> tuple[tf.Tensor, tf.Tensor]:
    """Return Exif and XMP; ``step`` gets the data, a place and both so far."""
    length = tf.strings.length(data)
    _, exif, xmp = tf.while_loop(
        lambda at, exif, xmp: at + 8 <= length,
        lambda *state: step(data, *state),
        (tf.constant(start), tf.constant(b""), tf.constant(b"")),
        maximum_iterations=orientation.STEPS,
        parallel_iterations=1,
    )
    return exif, xmp


def _segment(data: tf.Tensor, at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Take one step over a JPEG's segments (``orientation.jpeg_segments``)."""
    head = tf.cast(digits(data, at, 4), tf.int32)
    marker, is_marker = head[1], (head[0] == 0xFF) & (head[1] != 0xFF)
    has_length = is_marker & (marker >= 2) & ((marker < 0xD0) | (marker > 0xD9))
    size = tf.maximum(head[2] * 256 + head[3], 2)
    text = piece(data, at + 4, tf.where(has_length & (marker == orientation.APP1), size - 2, 0))
    is_exif = starts_with(text, orientation.EXIF_PREFIX)
    is_xmp = starts_with(text, orientation.XMP_PREFIX)
    exif = tf.strings.join([exif, tf.where(is_exif, behind(text, len(orientation.EXIF_PREFIX)), b"")])
    xmp = tf.where(is_xmp, behind(text, len(orientation.XMP_PREFIX)), xmp)
    end = at + tf.where(has_length, 2 + size, tf.where(is_marker, 2, 1))
    return tf.where(is_marker & (marker == orientation.SOS), tf.strings.length(data), end), exif, xmp


def _chunk(data: tf.Tensor, at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Take one step over a PNG's chunks."""
    size, kind = _length(data, number(data, at, 4, big=True)), piece(data, at + 4, 4)
    text = piece(data, at + 8, tf.where((kind == b"eXIf") | (kind == b"iTXt"), size, 0))
    is_xmp = (kind == b"iTXt") & starts_with(text, orientation.PNG_XMP + b"\0")
    return at + 12 + size, tf.where(kind == b"eXIf", text, exif), tf.where(is_xmp, text, xmp)


def _riff_chunk(
    data: tf.Tensor, at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Take one step over a WebP's chunks."""
    size, kind = _length(data, number(data, at + 4, 4)), piece(data, at, 4)
    text = piece(data, at + 8, tf.where((kind == b"EXIF") | (kind == b"XMP "), size, 0))
    exif = tf.where((kind == b"EXIF") & (exif == b""), text, exif)
    xmp = tf.where((kind == b"XMP ") & (xmp == b""), text, xmp)
    return at + 8 + size + size % 2, exif, xmp


def _length(data: tf.Tensor, claimed: tf.Tensor) -> tf.Tensor:
    """Return the length that a chunk claims, int32, at most that of the whole file: sums of it do not overflow."""
    return tf.minimum(tf.cast(tf.minimum(claimed, 2**30), tf.int32), tf.strings.length(data))


def _orientation(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """Return the orientation that Exif or, without one there, XMP gives; 1 if none or a wrong one."""
    of_exif = _of_exif(exif)
    of_xmp = tf.where(tf.strings.regex_full_match(xmp, _XMP), tf.strings.regex_replace(xmp, _XMP, r"\1"), b"1")
    result = tf.where(of_exif < 0, tf.strings.to_number(of_xmp, tf.int64), of_exif)
    return tf.where((result >= 1) & (result <= 8), result, 1)


def _of_exif(exif: tf.Tensor) -> tf.Tensor:
    """Return what ``orientation.of_exif`` does; -1 for None."""
    for _ in range(2):
        exif = behind(exif, tf.where(starts_with(exif, orientation.EXIF_PREFIX), len(orientation.EXIF_PREFIX), 0))
    head = piece(exif, 0, 4)
    is_tiff = tf.reduce_any([head == each for each in orientation.TIFF_HEADS]) & (tf.strings.length(exif) >= 8)
    return tf.cond(is_tiff, lambda: _of_tiff(exif), lambda: tf.constant(-1, tf.int64))


def _of_tiff(exif: tf.Tensor) -> tf.Tensor:
    big, length = starts_with(exif, b"MM"), tf.cast(tf.strings.length(exif), tf.int64)
    start = number(exif, 4, 4, big=big)
    return tf.cond(start + 2 <= length, lambda: _of_ifd(exif, start, length, big), lambda: tf.constant(-1, tf.int64))


def _of_ifd(exif: tf.Tensor, start: tf.Tensor, length: tf.Tensor, big: tf.Tensor) -> tf.Tensor:
    count = tf.minimum(number(exif, start, 2, big=big), (length - start - 2) // 12)
    entries = tf.reshape(digits(exif, start + 2, 12 * count), [-1, 12])
    tag, kind = value(entries[:, 0:2], big=big), value(entries[:, 2:4], big=big)
    values, offset = value(entries[:, 4:8], big=big), value(entries[:, 8:12], big=big)
    units = _lookup(orientation.UNITS, kind)
    size = values * units
    is_far = size > 4  # The value does not fit into the entry, which holds its place.
    total = tf.cumsum(tf.where(is_far, size, 0))
    is_skipped = is_far & (total > length)
    is_broken = is_far & ~is_skipped & (offset + size > length)
    is_read = (size > 0) & ~is_skipped & (tf.cumsum(tf.cast(is_broken, tf.int32)) == 0)
    used = tf.where(is_far, tf.constant(0, tf.int64), _lookup(orientation.NUMBERS, kind))
    short, byte = value(entries[:, 8:10], big=big), entries[:, 8]
    results = tf.where(used == 4, offset, tf.where(used == 2, short, tf.where(used == 1, byte, 0)))
    # The first of them; a last -1 stands for none.
    results = tf.concat([tf.boolean_mask(results, is_read & (tag == orientation.TAG)), [-1]], 0)
    return results[0]


def _lookup(table: dict[int, int], kind: tf.Tensor) -> tf.Tensor:
    """Return the entries of a table for small numbers; 0 where it has none."""
    known = tf.constant([table.get(key, 0) for key in range(max(orientation.UNITS) + 2)], tf.int64)
    return tf.gather(known, tf.minimum(kind, max(orientation.UNITS) + 1))
