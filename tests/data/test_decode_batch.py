"""Batches of encoded images: the exported model's pixels, and words, not graph nodes, for what cannot be decoded."""

import functools
import struct
import zlib
from random import Random

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image

from tests.helpers.pictures import encoded, noise, smooth
from trainer.data import decode, decode_batch
from trainer.data.decoding import plain
from trainer.data.formats import rescue
from trainer.data.input_rule import InputRule


@pytest.mark.slow
def test_a_batch_is_decoded_in_order():
    pixels = [noise(48, 48, 3, seed=seed) for seed in range(9)]
    contents = [encoded(image, "PNG") for image in pixels]
    assert np.array_equal(decode_batch.load_batch(contents, InputRule(48)).images, np.stack(pixels))
    assert np.array_equal(decode_batch.load_batch(contents[::-1], InputRule(48)).images, np.stack(pixels[::-1]))


def test_an_empty_batch():
    loaded = decode_batch.load_batch([], InputRule(48))
    assert loaded.images.shape == (0, 48, 48, 3)
    assert loaded.errors == {}


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(smooth(), "JPEG", exif=exif.tobytes())


EVERY_WAY = [
    *(
        encoded(noise(*shape, 3), "JPEG")
        for shape in ((48, 48), (48, 49), (96, 96), (97, 96), (20, 30), (300, 8), (1, 1))
    ),
    encoded(smooth(96, 48), "JPEG", progressive=True, subsampling=0),
    encoded(smooth()[:, :, 0], "JPEG"),
    encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG"),
    turned(6),
    turned(1),
    encoded(noise(60, 50, 3), "PNG"),
    encoded(smooth(), "WEBP"),
]


@pytest.mark.slow
def test_pixels_are_to_the_bit_those_of_the_graph_that_an_export_holds():
    """Alone, all in one batch, and more than one call takes, whatever the way there."""
    expected = decode.decode_batch(tf.constant(EVERY_WAY), InputRule(48)).numpy()
    for content, pixels in zip(EVERY_WAY, expected, strict=True):
        assert np.array_equal(decode_batch.load_batch([content], InputRule(48)).images[0], pixels)
    for times in (1, 40):
        loaded = decode_batch.load_batch(EVERY_WAY * times, InputRule(48))
        assert loaded.errors == {}
        assert np.array_equal(loaded.images, np.tile(expected, [times, 1, 1, 1]))


def jpegs():
    """Return JPEGs with chroma stored in every way, of odd sizes, grey, with restarts, progressive, CMYK and RGB."""
    chroma = ("444", "422", "420", "440", "411")
    ways = [simplejpeg.encode_jpeg(noise(33, 47, 3), 75, colorsubsampling=way) for way in chroma]
    options = [{}, {"restart_marker_blocks": 2}, {"optimize": True}, {"progressive": True}, {"keep_rgb": True}]
    ways += [encoded(smooth(50, 31), "JPEG", quality=90, **option) for option in options]
    grey = encoded(noise(9, 17), "JPEG")
    return [*ways, grey, encoded(noise(1, 1, 3), "JPEG"), encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG")]


def damaged(content, random):
    """Return a file with some bytes changed, left out, put in, or its end cut off."""
    content = bytearray(content)
    for _ in range(random.choice([1, 1, 3])):
        at = random.randrange(len(content))
        match random.randrange(5):
            case 0:
                del content[at : at + random.randrange(20)]
            case 1:
                content[at:at] = random.randbytes(random.randrange(1, 9))
            case 2:
                content[at : at + 2] = bytes([0xFF, random.choice([0xC0, 0xC1, 0xC2, 0xC4, 0xD9, 0xDA, 0xDB, 0xE1])])
            case 3 if at:
                del content[at:]
            case _:
                content[at] = random.randrange(256)
    return bytes(content)


@pytest.mark.slow
def test_jpegs_whole_and_damaged_become_what_the_graph_makes_of_them():
    """Two decoders must not disagree on a file's pixels; what the graph refuses, Pillow may read."""
    assert decode_batch.decoders_agree()
    random = Random(0)
    whole = jpegs()
    contents = whole + [damaged(random.choice(whole), random) for _ in range(200)]
    loaded = decode_batch.load_batch(contents, InputRule(48))
    for position, content in enumerate(contents):
        try:
            expected = decode.decode_batch(tf.constant([content]), InputRule(48)).numpy()[0]
        except tf.errors.InvalidArgumentError:
            expected = None
        if expected is None and position not in loaded.errors:
            expected = decode.resize(tf.constant(rescue.decode(content)), 48).numpy()
        assert (position in loaded.errors) == (expected is None), content
        assert expected is None or np.array_equal(loaded.images[position], expected), content
    fast = sum(plain.plain_shape(content) != plain.NOT_PLAIN for content in contents)
    assert len(loaded.errors) > 40
    assert fast > 60


def test_where_the_decoders_disagree_the_one_of_the_export_decides(monkeypatch, caplog):
    def brighter(pixels, content):
        done = decode_into(pixels, content)
        pixels |= 1
        return done

    decode_into = plain.decode_into
    monkeypatch.setattr(plain, "decode_into", brighter)
    monkeypatch.setattr(decode_batch, "decoders_agree", functools.cache(decode_batch.decoders_agree.__wrapped__))
    with caplog.at_level("WARNING"):
        loaded = decode_batch.load_batch(EVERY_WAY, InputRule(48))
    assert np.array_equal(loaded.images, decode.decode_batch(tf.constant(EVERY_WAY), InputRule(48)).numpy())
    assert [record.message for record in caplog.records if "differently" in record.message]


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
    "photoshop.psd": b"8BPS" + bytes(60),
    "zeros.jpg": b"\0" * 5000,
}


@pytest.fixture(scope="module")
def loaded():
    """Return a batch of good images between all kinds of bad ones, with what was put in."""
    good = [noise(48, 48, 3, seed=seed) for seed in range(len(BAD))]
    contents, images, names = [], [], []
    for number, (name, data) in enumerate(BAD.items()):
        jpeg = encoded(good[number], "JPEG")
        contents += [encoded(good[number], "PNG"), data, jpeg]
        images += [good[number], np.zeros([48, 48, 3], np.uint8), decode.decode(tf.constant(jpeg)).numpy()]
        names += [None, name, None]
    contents.append(FileNotFoundError(2, "No such file or directory", "missing.jpg"))
    images.append(np.zeros([48, 48, 3], np.uint8))
    names.append("missing.jpg")
    return decode_batch.load_batch(contents, InputRule(48)), np.stack(images), names


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
    assert "PSD cannot be read; save the image as PNG or JPEG" in reasons["photoshop.psd"]
    assert "damaged or unusual JPEG" in reasons["truncated.jpg"]
    assert "Invalid JPEG data" in reasons["truncated.jpg"]
    assert "Unknown image file format" in reasons["text.jpg"]
    assert "empty" in reasons["empty.jpg"]


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
    for data, name, pixels in (
        (png_header(30_000, 30_000), "PNG", 900_000_000),
        (jpeg_of_claimed_size(65_500, 65_500), "JPEG", 65_500**2),
    ):
        (reason,) = decode_batch.load_batch([data], InputRule(48)).errors.values()
        assert reason == (
            f"expected at most 100000000 pixels (--max_image_pixels), received {pixels} in a {name}; shrink the image, "
            "or raise --max_image_pixels"
        )
