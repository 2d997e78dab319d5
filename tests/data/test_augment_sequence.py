"""Augmentations in sequence: draws of their own, results of one example whatever its batch, and what each one does."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from trainer.core.config import AUGMENTATIONS, AugmentConfig
from trainer.data import augment
from trainer.data.augmentations import cutmix, cutout, flip, forensic, mixup, photometric, sbi
from trainer.data.self_blending import blend, masks

SIZE = 40
ODD = 43  # Rows that no vector of a processor divides.
EXAMPLES = np.arange(7, dtype=np.int64)
DEFAULTS = AugmentConfig()


def images_of(count=7, size=SIZE):
    return np.random.default_rng(1).integers(0, 256, [count, size, size, 3], dtype=np.uint8)


def draws_of(each):
    return augment.draw(3, 1, EXAMPLES, count=each.draws)


# --- sequences ------------------------------------------------------------------------------------------------------


def test_the_first_of_a_sequence_draws_as_if_it_were_alone():
    assert np.array_equal(augment.draw(3, 1, EXAMPLES, stream=0), augment.draw(3, 1, EXAMPLES))
    streams = [augment.draw(3, 1, np.arange(2000), stream=stream)[:, 0] for stream in range(3)]
    assert np.abs(np.corrcoef(streams) - np.eye(3)).max() < 0.08


def test_more_draws_continue_the_first_and_are_no_other_examples():
    many = augment.draw(3, 1, EXAMPLES, count=20)
    assert np.array_equal(many[:, : augment.DRAWS], augment.draw(3, 1, EXAMPLES))
    assert len(np.unique(augment.draw(3, 1, np.arange(100), count=24))) > 2390


def test_a_sequence_holds_what_changes_anything_in_order():
    sequence = augment.load("cutout,none,flip,cutout")
    assert [each.position for each in sequence] == [0, 1, 2]
    assert [each.parameters is None for each in sequence] == [False, True, False]
    assert [each.draws_key for each in sequence] == ["draws", "draws_1", "draws_2"]
    assert augment.load("none") == ()


def test_what_runs_on_the_device_is_applied_in_order():
    batch = {"image": tf.constant(images_of())}
    for names in ("flip,cutout", "cutout,flip"):
        sequence = augment.load(names, AugmentConfig(cutout_size=0.5))
        values = {}
        for each in sequence:
            draws = np.full([len(EXAMPLES), each.draws], 0.3, np.float32)  # Mirrors all; squares stand left.
            values[each.draws_key] = draws
            if each.parameters:
                values[each.parameters_key] = each.parameters(draws, SIZE)
        grey = augment.on_device(sequence, {**batch, **values}).numpy() == cutout.GREY
        columns = np.flatnonzero(grey.all(axis=(0, 3)).any(axis=0))
        assert columns.mean() < SIZE / 2 if names == "flip,cutout" else columns.mean() > SIZE / 2


def alone_and_together(function, *batches):
    """Return what a function makes of a batch, and of each of its examples by itself."""
    together = function(*batches)
    each = [function(*(batch[i : i + 1] for batch in batches)) for i in range(len(batches[0]))]
    return np.asarray(together), np.concatenate([np.asarray(one) for one in each])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_example_is_augmented_alike_alone_and_in_a_batch(name):
    images, others = images_of(size=ODD), images_of(size=ODD)[::-1]
    for each in augment.load(name):
        draws = draws_of(each)
        functions = [(each.host, (images, draws))] if each.host else []
        if each.parameters:
            functions.append((lambda draws, each=each: each.parameters(draws, ODD), (draws,)))
        if each.device:
            functions.append((each.device, (images, draws if not each.parameters else each.parameters(draws, ODD))))
        if each.mix:
            functions += [
                (lambda *a, part=part, each=each: each.mix(*a)[part], (images, others, draws)) for part in (0, 1)
            ]
        if each.is_forged:
            functions.append((each.is_forged, (draws,)))
            functions.append(
                (lambda *a, each=each: np.stack([each.forge(*p) for p in zip(*a, strict=True)]), (images, draws))
            )
        assert functions
        for function, batches in functions:
            together, each_alone = alone_and_together(function, *batches)
            assert np.array_equal(together, each_alone)


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_preview_shows_every_augmentation(name):
    images = images_of()
    shown = augment.preview(name, images, draws_of(augment.load(name)[0]))
    assert shown.dtype == np.uint8
    assert shown.shape == images.shape
    assert np.any(shown != images, axis=(1, 2, 3)).mean() > 0.25


def test_what_a_sweep_tries_by_itself():
    assert {"mixup", "cutmix", "sbi"}.isdisjoint(AUGMENTATIONS.searched)
    assert {"notebook", "forensic", "none", "flip", "photometric", "cutout"} <= set(AUGMENTATIONS.searched)


# --- flip, cutout, photometric, forensic ----------------------------------------------------------------------------


def test_flip_mirrors_half_and_leaves_the_others():
    images = images_of(2)
    draws = np.array([[0.49], [0.5]], np.float32)
    result = flip.device(images, draws).numpy()
    assert np.array_equal(result[0], images[0, :, ::-1])
    assert np.array_equal(result[1], images[1])


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_cutout_covers_one_square_and_nothing_else(share):
    images = images_of()
    draws = augment.draw(0, 0, EXAMPLES)
    corners = cutout.parameters(draws, SIZE, AugmentConfig(cutout_size=share))
    for image, result, (top, left, bottom, right) in zip(
        images, cutout.device(images, corners).numpy(), corners.astype(int), strict=True
    ):
        assert bottom - top == right - left == round(share * SIZE)
        expected = image.astype(np.float32)
        expected[max(top, 0) : bottom, max(left, 0) : right] = 127.5
        assert np.array_equal(result, expected)
    centres = cutout.parameters(augment.draw(0, 0, np.arange(3000)), SIZE, DEFAULTS)[:, :2] + SIZE // 8
    assert centres.min() == 0
    assert centres.max() == SIZE - 1


def changed(magnitude, images, **draws):
    """Return what photometric makes of images with the middle of all draws but some."""
    names = ("brightness", "contrast", "saturation", "hue", "curve", "noise", "seed", "")
    row = [draws.get(name, 0.0 if name == "noise" else 0.5) for name in names]
    config = AugmentConfig(photometric_magnitude=magnitude)
    values = photometric.parameters(np.tile(np.float32(row), [len(images), 1]), SIZE, config)
    return photometric.device(images, values).numpy()


def test_photometric_of_no_magnitude_changes_nothing():
    images = images_of()
    values = photometric.parameters(
        draws_of(augment.load("photometric")[0]), SIZE, AugmentConfig(photometric_magnitude=0.0)
    )
    assert np.abs(photometric.device(images, values).numpy() - images).max() < 1e-3
    assert np.abs(changed(1.0, images) - images).max() < 1e-3


def test_each_photometric_change_is_what_it_is_called():
    grey = np.full([1, SIZE, SIZE, 3], 100, np.uint8)
    grey[:, :10] = 140
    assert np.allclose(changed(1.0, grey, brightness=0.75), grey + 0.2 * 255, atol=0.01)
    assert np.allclose(changed(1.0, grey, contrast=1.0), 127.5 + 1.4 * (grey - 127.5), atol=0.01)
    assert changed(1.0, grey, curve=1.0).mean() > grey.mean() + 10
    for name in ("saturation", "hue"):  # Greys stay.
        assert np.allclose(changed(1.0, grey, **{name: 1.0}), grey, atol=0.2)
    red = np.full([1, SIZE, SIZE, 3], [180, 90, 90], np.uint8)
    pale, deep = (changed(1.0, red, saturation=draw)[0, 0, 0] for draw in (0.0, 1.0))
    assert np.ptp(pale) < np.ptp(red[0, 0, 0]) < np.ptp(deep)
    turned = changed(1.0, red, hue=1.0)[0, 0, 0]
    assert abs(turned[1] - turned[2]) > 20


def test_noise_is_standard_and_of_the_seed():
    noise = photometric._noise(tf.constant([1.0, 2.0]), 96).numpy()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1.0) < 0.01
    rows = noise.reshape(2, -1)
    assert abs(np.corrcoef(rows)[0, 1]) < 0.02
    assert abs(np.corrcoef(rows[0, 1:], rows[0, :-1])[0, 1]) < 0.02


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_forensic_follows_its_probabilities(probability):
    images, draws = images_of(), augment.draw(0, 0, EXAMPLES)
    blur, jpeg = ({name: probability} for name in ("blur_probability", "jpeg_probability"))
    flipped = np.where(draws[:, 4, None, None, None] < 0.5, images[:, :, ::-1], images)
    for one, other in ((blur, {"jpeg_probability": 0.0}), (jpeg, {"blur_probability": 0.0})):
        config = dataclasses.replace(DEFAULTS, **one, **other)
        same = (np.asarray(forensic.host(images, draws, config)) == flipped).all(axis=(1, 2, 3))
        assert same.mean() == 1.0 if probability == 0.0 else same.mean() < 0.3  # A blur of almost nothing.


# --- mixup, cutmix --------------------------------------------------------------------------------------------------


def test_mixup_has_the_larger_share_of_a_beta_distribution():
    draws = augment.draw(0, 0, np.arange(2000))
    nothing = np.zeros([2000, 1, 1, 3], np.uint8)
    shares = mixup.mix(nothing, nothing, draws, AugmentConfig(mixup_alpha=0.4))[1]
    assert shares.min() >= 0.5
    folded = stats.beta(0.4, 0.4)
    assert stats.kstest(shares, lambda x: folded.cdf(x) - folded.cdf(1 - x)).pvalue > 0.001


def test_mixup_blends_by_its_share_and_an_image_with_itself_is_itself():
    images, draws = images_of(), augment.draw(0, 0, EXAMPLES)
    mixed, shares = mixup.mix(images, images[::-1], draws, DEFAULTS)
    exact = shares[:, None, None, None] * images.astype(float) + (1 - shares[:, None, None, None]) * images[::-1]
    assert np.abs(mixed - exact).max() <= 0.51
    assert np.array_equal(mixup.mix(images, images, draws, DEFAULTS)[0], images)


def test_cutmix_counts_labels_by_area():
    draws = augment.draw(0, 0, np.arange(300))
    black, white = (np.full([300, SIZE, SIZE, 3], value, np.uint8) for value in (0, 255))
    mixed, shares = cutmix.mix(black, white, draws, DEFAULTS)
    assert np.allclose(shares, (mixed == 0).mean(axis=(1, 2, 3)), atol=1e-6)
    assert 0.48 < shares.min() < 0.6
    assert shares.max() > 0.98
    assert len({tuple(np.argwhere(image[..., 0])[0]) for image in mixed if image.any()}) > 100
    assert np.array_equal(cutmix.mix(white, white, draws, DEFAULTS)[0], white)


@pytest.mark.parametrize("size", [2, 3, 50, 10**9])
def test_partners_are_other_examples_spread_evenly(size):
    index = np.arange(4000) % size
    partners = augment.partners(index, augment.draw(0, 0, np.arange(4000)), size)
    assert (partners != index).all()
    assert partners.min() >= 0
    assert partners.max() < size
    distance = (partners - index) % size
    assert abs(distance.mean() / size - 0.5) < 0.05
    assert len(np.unique(distance)) == min(size - 1, 4000)


def test_a_split_of_one_image_has_no_other():
    assert augment.partners(np.array([0]), augment.draw(0, 0, np.array([0])), 1).tolist() == [0]


# --- self-blended images --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blend_draws():
    return augment.draw(0, 0, np.arange(60), count=blend.DRAWS)


@pytest.mark.parametrize("size", [16, 64, 101])
def test_masks_are_smooth_shapes_inside_the_image(blend_draws, size):
    shapes = np.stack([masks.random_shape(row[-masks.DRAWS :], size) for row in blend_draws])
    assert shapes.shape == (60, size, size)
    assert shapes.dtype == np.float32
    assert shapes.min() == 0.0
    assert shapes.max() <= 1.0
    assert (shapes.max(axis=(1, 2)) > 0.6).all()
    assert shapes.mean(axis=(1, 2)).min() > 0.02
    assert shapes.mean(axis=(1, 2)).max() < 0.6
    assert shapes[:, [0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.1  # Corners are left alone.
    steps = [np.abs(np.diff(shapes, axis=axis)).max() for axis in (1, 2)]
    assert max(steps) < 0.55  # No hard edge.
    assert len({shape.tobytes() for shape in shapes}) == 60


def test_a_forgery_is_its_target_outside_the_mask_and_its_source_inside(blend_draws):
    image = images_of(1, 64)[0]
    ratios = set()
    for row in blend_draws:
        pair = blend.pair(image, row)
        forgery = pair.blend()
        assert np.array_equal(forgery[pair.mask == 0.0], pair.target[pair.mask == 0.0])
        assert (forgery >= np.minimum(pair.source, pair.target)).all()
        assert (forgery <= np.maximum(pair.source, pair.target)).all()
        assert not np.array_equal(forgery, image)
        assert np.array_equal(forgery, blend.self_blend(image, row))
        ratios.add(round(float(pair.mask.max()) * 4) / 4)
    assert ratios == {0.25, 0.5, 0.75, 1.0}


def test_source_and_target_are_one_image_of_which_one_was_changed_and_one_moved(blend_draws):
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([x * 3, y * 3, x + y], axis=-1).astype(np.uint8)
    targets = [blend.pair(image, row).target for row in blend_draws]
    same = [np.array_equal(target, image) for target in targets]
    assert 0.3 < np.mean(same) < 0.7
    for row in blend_draws:
        pair = blend.pair(image, row)
        assert np.abs(pair.source.astype(float) - pair.target).mean() < 60  # The same picture.
        assert not np.array_equal(pair.source, image)


def test_another_source_of_masks_can_be_given(blend_draws):
    image = images_of(1, 32)[0]
    left = np.zeros([32, 32], np.float32)
    left[:, :16] = 1.0
    pair = blend.pair(image, blend_draws[0], lambda draws, size: left)
    assert pair.mask[:, :16].min() > 0.0
    assert np.array_equal(pair.blend()[:, 16:], pair.target[:, 16:])


def test_sbi_forges_its_share():
    draws = augment.draw(0, 0, np.arange(3000), count=sbi.DRAWS)
    for probability in (0.0, 0.3, 0.5, 1.0):
        assert abs(sbi.is_forged(draws, AugmentConfig(sbi_probability=probability)).mean() - probability) < 0.03
