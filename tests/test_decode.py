"""From bytes to pixels, compared with Pillow; and what cannot be decoded is named in words, not graph nodes."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from trainer.data import decode

HEIGHT, WIDTH = 37, 51


def smooth(height=HEIGHT, width=WIDTH, channels=3):
    """Return a gradient with some texture, so that JPEG and resizing are close to lossless."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [127 + 90 * np.sin(x / (7 + channel) + channel) * np.cos(y / (9 + channel)) for channel in range(channels)]
    return np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format=format, **options)
    return buffer.getvalue()


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


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 99


def jpeg_of_claimed_size(width, height):
    """Return a JPEG whose frame header (SOF0) announces another size."""
    data = bytearray(encoded(smooth(), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def test_an_image_that_announces_too_many_pixels_is_not_decoded():
    for data, pixels in ((png_header(30_000, 30_000), 900_000_000), (jpeg_of_claimed_size(65_500, 65_500), 65_500**2)):
        (reason,) = decode.load_batch([data], 48).errors.values()
        assert reason == f"expected at most 100000000 pixels (--max_image_pixels), received {pixels}"


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


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_is_decoded_in_order():
    pixels = [noise(48, 48, 3, seed=seed) for seed in range(9)]
    contents = [encoded(image, "PNG") for image in pixels]
    assert np.array_equal(decode.load_batch(contents, 48).images, np.stack(pixels))
    assert np.array_equal(decode.load_batch(contents[::-1], 48).images, np.stack(pixels[::-1]))


def test_an_empty_batch():
    loaded = decode.load_batch([], 48)
    assert loaded.images.shape == (0, 48, 48, 3)
    assert loaded.errors == {}


def test_the_compiled_batch_is_the_graph_that_an_export_holds():
    data = [encoded(noise(60, 50, 3, seed=seed), "PNG") for seed in range(3)]
    batch = decode.decode_batch(tf.constant(data), 48).numpy()
    assert np.array_equal(batch, decode.load_batch(data, 48).images)


JPEG = encoded(noise(64, 64, 3), "JPEG", quality=90)
PNG = encoded(noise(64, 64, 3), "PNG")
BAD = {
    "truncated.jpg": JPEG[: len(JPEG) // 2],
    "header_only.jpg": JPEG[:20],
    "magic.jpg": b"\xff\xd8\xff",
    "truncated.png": PNG[: len(PNG) // 2],
    "damaged.png": PNG[:60] + b"\0" * 40 + PNG[100:],
    "empty.jpg": b"",
    "text.jpg": b"this is no image, whatever its name says\n" * 10,
    "short.bmp": b"BM",
    "palette.bmp": encoded(Image.fromarray(smooth()).quantize(16), "BMP"),
    "zeros.jpg": b"\0" * 5000,
}


@pytest.fixture(scope="module")
def loaded():
    """Return a batch of good images between all kinds of bad ones, with what was put in."""
    good = [noise(48, 48, 3, seed=seed) for seed in range(len(BAD))]
    contents, images, names = [], [], []
    for number, (name, data) in enumerate(BAD.items()):
        contents += [encoded(good[number], "PNG"), data]
        images += [good[number], np.zeros([48, 48, 3], np.uint8)]
        names += [None, name]
    contents.append(FileNotFoundError(2, "No such file or directory", "missing.jpg"))
    images.append(np.zeros([48, 48, 3], np.uint8))
    names.append("missing.jpg")
    return decode.load_batch(contents, 48), np.stack(images), names


def test_the_others_of_a_batch_survive(loaded):
    batch, images, _ = loaded
    assert np.array_equal(batch.images, images)


def test_every_bad_file_is_reported_and_no_good_one(loaded):
    batch, _, names = loaded
    assert {names[position] for position in batch.errors} == {name for name in names if name}


def test_reasons_are_words_for_people(loaded):
    batch, _, names = loaded
    reasons = {names[position]: reason for position, reason in batch.errors.items()}
    for name, reason in reasons.items():
        assert 10 < len(reason) <= 300, (name, reason)
        for word in ("{{", "}}", "node", "[Op:", "while", "map/", "\n", "Detected at", "root error", "Graph execution"):
            assert word not in reason, (name, reason)
    assert "No such file" in reasons["missing.jpg"]
    assert "palette" in reasons["palette.bmp"]
    assert "Invalid JPEG data" in reasons["truncated.jpg"]
    assert "Unknown image file format" in reasons["text.jpg"]
    assert "empty" in reasons["empty.jpg"]
