"""From bytes to pixels, compared with Pillow."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tests.helpers.pictures import HEIGHT, WIDTH, encoded, noise, smooth
from trainer.data import decode


def decoded(data):
    return decode.decode(tf.constant(data)).numpy()


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(one, other):
    return np.abs(one.astype(np.float64) - other.astype(np.float64))


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_are_exact(format):
    pixels = noise(HEIGHT, WIDTH, 3)
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.array_equal(decoded(encoded(pixels, format, **options)), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 3)])
def test_small_images(size):
    pixels = noise(*size, 3)
    for format in ("PNG", "BMP"):
        assert np.array_equal(decoded(encoded(pixels, format)), pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95},
        {"quality": 30},
        {"quality": 90, "progressive": True},
        {"quality": 90, "subsampling": 0},
        {"quality": 90, "subsampling": 2},
        {"quality": 90, "restart_marker_blocks": 2},
    ],
)
def test_jpeg_is_pillows(options):
    for pixels in (smooth(), noise(HEIGHT, WIDTH, 3)):
        data = encoded(pixels, "JPEG", **options)
        assert difference(decoded(data), pillow(data)).max() <= 2
        assert difference(decoded(data), pillow(data)).mean() < 0.1


def test_lossy_webp_is_pillows():
    data = encoded(smooth(), "WEBP", quality=90)
    assert difference(decoded(data), pillow(data)).mean() < 1.0


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grayscale_becomes_three_equal_channels(format):
    data = encoded(smooth()[:, :, 0], format)
    image = decoded(data)
    assert difference(image, pillow(data)).max() <= 1
    assert np.array_equal(image[:, :, 0], image[:, :, 1])
    assert np.array_equal(image[:, :, 0], image[:, :, 2])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_shows_colours_not_indices(bits):
    picture = Image.fromarray(smooth()).quantize(2**bits)
    data = encoded(picture, "PNG", bits=bits)
    assert np.array_equal(decoded(data), np.asarray(picture.convert("RGB")))


def test_one_bit_png():
    data = encoded(Image.fromarray(noise(HEIGHT, WIDTH)).convert("1"), "PNG")
    assert np.array_equal(decoded(data), pillow(data))
    assert set(np.unique(decoded(data))) == {0, 255}


def png16(pixels):
    """Encode [H, W] or [H, W, 3] uint16 as a 16-bit PNG (Pillow writes no 16-bit colour)."""
    return tf.io.encode_png(tf.constant(pixels if pixels.ndim == 3 else pixels[:, :, None])).numpy()


def test_sixteen_bit_png_keeps_the_upper_eight_bits():
    gray = noise(HEIGHT, WIDTH, dtype=np.uint16)
    colour = noise(HEIGHT, WIDTH, 3, dtype=np.uint16)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png16(gray)))), gray)  # It is 16 bits, as Pillow sees it.
    assert difference(decoded(png16(gray)), (gray >> 8)[:, :, None].repeat(3, 2)).max() <= 1
    assert difference(decoded(png16(colour)), colour >> 8).max() <= 1
    assert difference(decoded(png16(colour)), colour / 257).mean() < 0.6  # No wrong byte order, no overflow.


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_alpha_is_dropped_not_blended(format):
    pixels = noise(HEIGHT, WIDTH, 4)
    assert np.array_equal(decoded(encoded(pixels, format)), pixels[:, :, :3])


def test_webp_with_alpha_or_animation_is_refused_not_wrong():
    frames = [Image.fromarray(smooth()), Image.fromarray(255 - smooth())]
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    for data in (moving, encoded(noise(HEIGHT, WIDTH, 4), "WEBP", lossless=True)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoded(data)


def test_gray_with_alpha():
    pixels = noise(HEIGHT, WIDTH, 2)
    image = decoded(encoded(Image.fromarray(pixels, "LA"), "PNG"))
    assert np.array_equal(image, pixels[:, :, :1].repeat(3, 2))


@pytest.mark.parametrize("quality", [70, 95])
def test_cmyk_jpeg_is_pillows(quality):
    data = encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=quality)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert difference(decoded(data), pillow(data)).mean() < 2.0


def test_gif_gives_its_first_frame():
    frames = [Image.fromarray(smooth()[:, ::step]).resize([WIDTH, HEIGHT]).quantize(64) for step in (1, -1)]
    still = encoded(frames[0], "GIF")
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(moving)).n_frames == 2
    assert np.array_equal(decoded(moving), pillow(moving))
    assert np.array_equal(decoded(still), pillow(still))


def test_a_bmp_of_eight_bits_is_refused():
    for picture in (Image.fromarray(smooth()).quantize(16), Image.fromarray(smooth()[:, :, 0])):
        with pytest.raises(tf.errors.InvalidArgumentError, match="palette"):
            decoded(encoded(picture, "BMP"))


def with_orientation(orientation, endian, *, jfif):
    """Return a JPEG whose EXIF names an orientation, right after the start or after a JFIF segment."""
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112] = "a maker", orientation
    data = encoded(smooth(), "JPEG", quality=95, exif=exif.tobytes())
    assert data[6:10] == b"JFIF"
    return data if jfif else data[:2] + data[20:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_says(orientation):
    for endian, jfif in (("<", True), (">", True), ("<", False), (">", False)):
        data = with_orientation(orientation, endian, jfif=jfif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        image = decoded(data)
        assert image.shape == upright.shape
        assert difference(image, upright).mean() < 0.1


def test_an_exif_without_orientation_or_with_a_wrong_one_turns_nothing():
    plain = encoded(smooth(), "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    for data in (encoded(smooth(), "JPEG", quality=95, exif=exif.tobytes()), with_orientation(77, "<", jfif=True)):
        assert np.array_equal(decoded(data), decoded(plain))


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "lossless WEBP", "extended WEBP", "topdown BMP"]
)
def test_the_limit_counts_the_pixels_of_every_format(format):
    options = {"lossless WEBP": {"lossless": True}, "extended WEBP": {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}}
    data = encoded(smooth(), format.split()[-1], **options.get(format, {}))
    if format == "topdown BMP":
        data = data[:22] + struct.pack("<i", -HEIGHT) + data[26:]
    assert decode.decode(tf.constant(data), HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"received {HEIGHT * WIDTH}"):
        decode.decode(tf.constant(data), HEIGHT * WIDTH - 1)


# --- resize ---------------------------------------------------------------------------------------------------------


def bilinear(image, size):
    """Resize with half-pixel centres, written out."""
    result = image.astype(np.float64)
    for axis in (0, 1):
        length = result.shape[axis]
        place = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = (place - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        result = np.take(result, low, axis) * (1 - weight) + np.take(result, high, axis) * weight
    return result


@pytest.mark.parametrize("shape", [(20, 20), (33, 64), (64, 33), (32, 16), (70, 65), (80, 80), (1, 1), (2, 80)])
def test_resize_is_bilinear_rounded(shape):
    pixels = noise(*shape, 3)
    resized = decode.resize(tf.constant(pixels), 40).numpy()
    assert resized.shape == (40, 40, 3)
    assert resized.dtype == np.uint8
    assert difference(resized, bilinear(pixels, 40)).max() <= 0.502  # Nothing but the rounding.


@pytest.mark.parametrize("shape", [(300, 300), (90, 60), (40, 81), (512, 40)])
def test_a_strong_shrink_is_antialiased_as_pillow_does(shape):
    pixels = noise(*shape, 3)
    resized = decode.resize(tf.constant(pixels), 40).numpy()
    oracle = np.asarray(Image.fromarray(pixels).resize([40, 40], Image.Resampling.BILINEAR))
    assert difference(resized, oracle).max() <= 2
    assert difference(resized, oracle).mean() < 0.5


@pytest.mark.parametrize("shape", [(20, 20), (33, 64), (64, 33), (32, 16), (70, 65), (1, 1), (46, 46)])
def test_nearest_takes_pixels_of_the_image_as_the_notebooks_loader_does(shape):
    pixels = noise(*shape, 3)
    resized = decode.resize(tf.constant(pixels), 40, "nearest").numpy()
    oracle = np.asarray(Image.fromarray(pixels).resize([40, 40], Image.Resampling.NEAREST))  # keras.utils.load_img
    # Where a middle lies between two pixels, Pillow takes either.
    rows, columns = ([(2 * position + 1) * length % 80 != 0 for position in range(40)] for length in shape)
    clear = np.ix_(rows, columns)
    assert np.array_equal(resized[clear], oracle[clear])
    assert clear[0].size * clear[1].size >= 20 * 20


def test_nearest_averages_where_a_side_shrinks_to_less_than_half():
    pixels = noise(90, 60, 3)
    image = tf.constant(pixels)
    assert np.array_equal(decode.resize(image, 40, "nearest").numpy(), decode.resize(image, 40, "bilinear").numpy())


def test_the_same_size_is_untouched():
    pixels = noise(40, 40, 3)
    assert np.array_equal(decode.resize(tf.constant(pixels), 40).numpy(), pixels)
    batch = noise(3, 40, 40, 3)
    assert np.array_equal(decode.resize(tf.constant(batch), 40).numpy(), batch)


def test_a_batch_is_resized_as_each_of_it():
    batch = noise(3, 50, 60, 3)
    together = decode.resize(tf.constant(batch), 40).numpy()
    for image, expected in zip(batch, together, strict=True):
        assert np.array_equal(decode.resize(tf.constant(image), 40).numpy(), expected)
