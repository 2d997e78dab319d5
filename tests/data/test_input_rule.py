"""Crops and padding: the same pixels by NumPy's own padding, on the host, and in the graph that an export holds."""

import itertools
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.pictures import encoded, noise, smooth
from trainer.core.config import DataConfig, from_flat
from trainer.core.errors import RequestError
from trainer.data import cache, decode, decode_batch, input_rule, manifest, pipeline, preview
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.input_rule import InputRule
from trainer.data.order import Order
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags
from trainer.data.pipeline import ReplicaShare

S = 24
LENGTHS = (1, 2, 7, 23, 24, 25, 60)
SHAPES = [*itertools.product((1, 7, 24, 25), LENGTHS), (60, 23), (60, 61), (2, 1), (96, 40)]
RULES = [
    InputRule(S, "crop", 10),
    InputRule(S, "pad"),
    InputRule(S, "pad", interpolation="nearest"),
    InputRule(S, interpolation="nearest"),
]


def padded(image):
    """Return an image of at least S x S pixels: NumPy's reflection around one that is smaller."""
    missing = [max(S - length, 0) for length in image.shape[:2]]
    return np.pad(image, [*((-(-count // 2), count // 2) for count in missing), (0, 0)], "reflect")


def crops(image):
    """Return the ten views by slices: the centre, the four corners, and all mirrored."""
    whole = padded(image)
    height, width = whole.shape[:2]
    corners = [(top, left) for top in (0, height - S) for left in (0, width - S)]
    places = [((height - S) // 2, (width - S) // 2), *corners]
    views = np.stack([whole[top : top + S, left : left + S] for top, left in places])
    return np.concatenate([views, views[:, :, ::-1]])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_views_of_a_crop_are_windows_of_the_images_own_pixels(shape):
    image = noise(*shape, 3)
    expected = crops(image)
    assert np.array_equal(InputRule(S, "crop").views_of(image), expected[0])
    assert np.array_equal(InputRule(S, "crop", 5).views_of(image), expected[:5])
    assert np.array_equal(InputRule(S, "crop", 10).views_of(image), expected)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.mode}{rule.views}{rule.interpolation}")
def test_the_graph_and_the_host_agree_on_every_bit(rule):
    for shape in ((1, 1), (7, 24), (61, 9), (96, 40)):
        files = [encoded(noise(*shape, 3, seed=seed), "JPEG") for seed in range(2)]
        images = np.stack([decode_batch.decode_image(content) for content in files])
        graph = decode.to_input(tf.constant(images), rule).numpy()
        assert graph.shape == (2, *rule.shape)
        assert np.array_equal(decode_batch.load_batch(files, rule).images, graph), shape
        if rule.mode == "crop":
            assert np.array_equal(np.stack([rule.views_of(image) for image in images]), graph), shape


def turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif.tobytes())


FILES = [
    *(encoded(noise(*shape, 3), "JPEG") for shape in ((24, 24), (25, 60), (60, 25), (7, 31), (1, 1), (60, 61))),
    encoded(noise(40, 33), "JPEG"),
    encoded(noise(9, 60), "PNG"),
    encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG"),
    encoded(smooth(), "JPEG", progressive=True),
    encoded(smooth(), "TIFF"),
    *(turned(smooth(), orientation) for orientation in (3, 5, 6)),
]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.mode}{rule.views}{rule.interpolation}")
def test_files_of_all_kinds_become_what_the_graph_makes_of_them(rule):
    """One by one and in one batch, whatever the decoder."""
    graph = [decode.to_input(tf.constant(decode_batch.decode_image(content)), rule).numpy() for content in FILES]
    loaded = decode_batch.load_batch([*FILES, b"no image"], rule)
    assert list(loaded.errors) == [len(FILES)]
    assert np.array_equal(loaded.images[:-1], np.stack(graph))
    assert not loaded.images[-1].any()
    for_graph = [number for number, content in enumerate(FILES) if content[:2] not in (b"II", b"MM")]
    served = decode.decode_batch(tf.constant([FILES[number] for number in for_graph]), rule).numpy()
    assert np.array_equal(served, np.stack(graph)[for_graph])


def test_pad_shows_the_whole_image_with_its_proportions():
    small = noise(10, 24, 3)
    assert np.array_equal(decode.to_input(tf.constant(small), InputRule(S, "pad")).numpy(), padded(small))
    large = smooth(96, 40)
    seen = decode.to_input(tf.constant(large), InputRule(S, "pad")).numpy()
    shrunk = tf.image.resize(large, [24, 10], antialias=True).numpy()
    assert np.abs(seen[:, 7:17] - shrunk).max() <= 0.51
    assert np.array_equal(seen, padded(seen[:, 7:17]))
    assert input_rule.fitted(1, 5000, S) == (1, S)  # Never without a row.


def test_random_windows_reach_every_place_alike_and_depend_on_seed_pass_and_example_alone():
    image = np.arange(4 * 3)[:, None].repeat(3, 1).reshape(4, 3, 3).astype(np.uint8)
    index = np.arange(3000)
    draws = input_rule.draw(5, 2, index)
    rule = InputRule(2, "crop")
    corners = [int(rule.random_view(image, each)[0, 0, 0]) for each in draws]
    assert sorted(set(corners)) == [0, 1, 3, 4, 6, 7]
    assert min(np.bincount(corners)[[0, 1, 3, 4, 6, 7]]) > 400
    assert np.array_equal(input_rule.draw(5, 2, index[::-1][:9]), draws[::-1][:9])
    for seed, number in ((6, 2), (5, 3)):
        assert not np.array_equal(input_rule.draw(seed, number, index), draws)
    ends = np.array([[0, 0], [2**32 - 1, 2**32 - 1]], np.uint64)
    assert [int(rule.random_view(image, each)[0, 0, 0]) for each in ends] == [0, 7]
    assert np.array_equal(InputRule(S, "crop").random_view(image, draws[0]), InputRule(S, "crop").views_of(image))


@pytest.fixture(scope="module")
def split(image_set):
    return manifest.read_split(image_set, "Validation")


def test_training_sees_random_windows_and_validation_the_views(split):
    config = DataConfig(image_size=S, input="crop", test_views=5)
    index = np.array([3, 0, 8])
    whole = [np.asarray(decode_batch.decode_image(split_bytes(split, i))) for i in index]
    training, validation = (ImageSource(split, config, training=training) for training in (True, False))
    draws = input_rule.draw(1, 4, index)
    windows = [InputRule(S, "crop").random_view(image, each) for image, each in zip(whole, draws, strict=True)]
    assert np.array_equal(training.load(index, draws).images, np.stack(windows))
    assert np.array_equal(validation.load(index).images, np.stack([crops(image)[:5] for image in whole]))
    with pytest.raises(ValueError, match="draws"):
        training.load(index)


def split_bytes(split, number):
    with open(split.path(int(number)), "rb") as file:
        return file.read()


def test_the_preview_shows_the_windows_that_training_sees(split):
    config = DataConfig(image_size=S, input="crop", augment="none")
    shown = preview.of_batch(split, config, 7, step=0, batch_size=4, count=4)
    other = preview.of_batch(split, config, 7, step=8, batch_size=4, count=4)  # The next pass, other images first.
    assert shown.images.shape == (4, S, S, 3)
    centres = ImageSource(split, config).load(np.arange(len(split))).images
    assert not any((image == centre).all() for image in (*shown.images, *other.images) for centre in centres)


def batches(split, order, share=None, start=0, stop=8):
    images = ImageSource(split, DataConfig(image_size=S, input="crop"), training=True)
    bad = BadImages(os.devnull, 0.0, write=False)
    dataset = pipeline.batches(split, images, order, bad, augmentation="none", share=share or ReplicaShare(),
                               start_step=start, stop_step=stop)  # fmt: skip
    return [(batch["index"], batch["image"]) for batch in dataset.as_numpy_iterator()]


def test_a_training_batch_is_alike_from_any_start_and_on_any_replicas_and_new_in_every_pass(split):
    order = Order(len(split), 8, seed=5)
    whole = batches(split, order)
    halves = batches(split, order, ReplicaShare(2, 0, 2), start=3)
    for step, (index, images) in enumerate(whole[3:]):
        parts = halves[2 * step : 2 * step + 2]
        assert np.array_equal(np.concatenate([part[0] for part in parts]), index)
        assert np.array_equal(np.concatenate([part[1] for part in parts]), images)
    passes = [{}, {}]
    for step, (index, images) in enumerate(whole):
        real = np.flatnonzero(images.any(axis=(1, 2, 3)))
        passes[step // order.steps_per_pass].update({int(index[slot]): images[slot] for slot in real})
    assert len(passes[0]) == len(passes[1]) == len(split)
    same = sum(np.array_equal(passes[0][number], passes[1][number]) for number in range(len(split)))
    assert same <= 1  # Of 41 x 41 places.


def test_a_packed_set_gives_the_same_crops(image_set, split, tmp_path):
    writer.pack(PackFlags(data_dir=image_set, out=str(tmp_path)), manifest.read_all_splits(image_set))
    packed = manifest.read_split(str(tmp_path), "Validation")
    config, index = DataConfig(image_size=S, input="crop"), np.arange(9)
    draws = input_rule.draw(0, 0, index)
    one, other = (ImageSource(each, config, training=True).load(index, draws).images for each in (split, packed))
    assert np.array_equal(one, other)


def test_padded_pixels_have_a_cache_of_their_own(split, tmp_path):
    for mode in ("resize", "pad", "pad"):
        config = DataConfig(image_size=S, input=mode, cache=str(tmp_path))
        assert np.array_equal(
            ImageSource(split, config).load(np.arange(3)).images,
            ImageSource(split, config, cached=False).load(np.arange(3)).images,
        )
    assert len(list(tmp_path.iterdir())) == 2
    assert cache.open_cache("none", 0, split, InputRule(S), 1) is None


@pytest.mark.parametrize("height", [10, 24, 61])
def test_a_map_of_the_centre_is_laid_over_the_image_where_the_centre_was(height):
    heat = noise(S, S).astype(np.float32)
    assert InputRule(S).on_image(heat, height, 9) is heat
    whole = InputRule(S, "crop").on_image(heat, height, 50)
    assert whole.shape == (height, 50)
    middle = InputRule(S, "crop").views_of(np.repeat(whole[..., None], 3, 2))[..., 0]
    rows = slice((S - height + 1) // 2, (S + height + 1) // 2) if height < S else slice(None)
    assert np.array_equal(middle[rows], heat[rows])
    assert np.count_nonzero(whole) == np.count_nonzero(heat[rows])
    assert InputRule(S, "pad").on_image(heat, 48, 20).shape == (24, 10)
    assert np.array_equal(InputRule(S, "pad").on_image(heat, 48, 20), heat[:, 7:17])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"test_views": 5}, "--test_views=5: expected --input=crop, received --input=resize"),
        ({"test_views": 10, "input": "pad"}, "received --input=pad"),
        ({"test_views": 3, "input": "crop"}, "--test_views: expected one of 1, 5, 10; received 3"),
        ({"cache": "memory", "input": "crop"}, "--cache: expected none with --input=crop"),
        ({"data_service": "grpc://here:5050", "input": "crop"}, "--data_service: expected none with --input=crop"),
        ({"input": "stretch"}, "--input: expected one of resize, crop, pad"),
    ],
)
def test_what_cannot_be_is_refused_by_name(values, named):
    with pytest.raises(RequestError) as refused:
        from_flat({"data_dir": "D", "job_dir": "J", **values})
    assert named in str(refused.value)
