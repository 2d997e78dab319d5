"""The forensic network and its fixed front ends."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import fft

from tests.helpers.jobs import float32_policy, precision_policy, result_of, run_job, sigterm_after  # noqa: F401
from trainer.core.config import ModelConfig
from trainer.models import front_ends, registry


def build(front_end, image_size=32, **changes):
    config = ModelConfig(model="forensic", front_end=front_end, **changes)
    return registry.build(config, num_classes=2, image_size=image_size, seed=0)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, [2, 32, 36, 3]).astype(np.float32) / 255


def test_block_dct_is_that_of_jpeg_in_overlapping_blocks(pixels):
    out = front_ends.BlockDct()(pixels).numpy()
    assert out.shape == (2, 7, 8, 192)
    red, green, blue = np.moveaxis(pixels[1, 4:12, 8:16].astype(np.float64) * 255, -1, 0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    np.testing.assert_allclose(
        np.expm1(out[1, 1, 2, :64]).reshape(8, 8), abs(fft.dctn(luminance, norm="ortho")), atol=0.01
    )
    blueness = (blue - luminance) / 1.772
    np.testing.assert_allclose(
        np.expm1(out[1, 1, 2, 64:128]).reshape(8, 8), abs(fft.dctn(blueness, norm="ortho")), atol=0.05
    )


def test_residuals_vanish_where_neighbours_predict_a_pixel_and_are_truncated_at_an_edge(pixels):
    rows, columns = np.mgrid[:32, :32] / 64
    ramp = np.stack([rows, columns, (rows + columns) / 2], -1)[None].astype(np.float32)
    np.testing.assert_allclose(front_ends.Residuals()(ramp), 0.0, atol=1e-4)
    edge = np.zeros([1, 32, 32, 3], np.float32)
    edge[:, :, 16:, 1] = 1.0
    out = front_ends.Residuals()(edge).numpy()
    assert out.shape == (1, 28, 28, 12)
    assert out.min() == -1.0
    assert out.max() == 1.0
    assert not out[..., :4].any()  # Of red, in which there is no edge.
    assert not out[..., 8:].any()
    one = np.full([1, 32, 32, 3], 0.5, np.float32)
    one[0, 16, 16, 0] += 2 / 255  # One pixel, two levels above its neighbours: minus two in each filter.
    np.testing.assert_allclose(front_ends.Residuals()(one)[0, 14, 14, :4], -2 / front_ends.TRUNCATION, rtol=1e-4)


@pytest.mark.parametrize("front_end", ["rgb", "srm", "dct"])
def test_the_network_is_small_takes_any_size_and_has_no_weights_in_its_front_end(front_end):
    model = build(front_end, image_size=45)
    assert 150_000 < model.count_params() < 250_000
    assert model.get_layer("dropout").output.shape == (None, 96)
    assert model.variables[0].path == "conv1_1/kernel"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("front_end", ["rgb", "srm", "dct"])
def test_sixteen_bits_see_the_same_traces(front_end, policy):
    # One grey level on a bright picture, where 16 bits are coarsest.
    bright = np.full([2, 32, 32, 3], 250 / 255, np.float32)
    bright[1, ::2] = 251 / 255
    with precision_policy(policy):
        model = build(front_end)
    first = model.get_layer("conv1_1")
    seen = tf.cast(keras.Model(model.input, first.input)(bright), first.compute_dtype).numpy().astype(np.float32)
    exact = keras.Model(model.input, first.input)(bright).numpy()
    assert abs(exact[1] - exact[0]).max() > 1e-3
    np.testing.assert_allclose(seen[1] - seen[0], exact[1] - exact[0], atol=0.5 * abs(exact[1] - exact[0]).max())
    assert np.isfinite(model(bright)).all()


@pytest.mark.slow
def test_a_cut_job_on_two_devices_ends_like_a_whole_one_on_one(image_set, tmp_path):
    settings = {"model": "forensic", "image_size": 32, "batch_size": 16, "steps_per_epoch": 3, "augment": "none"}
    assert run_job(image_set, tmp_path / "whole", **settings) == 0
    with sigterm_after(4):
        assert run_job(image_set, tmp_path / "cut", num_devices=2, **settings) == 75
    assert run_job(image_set, tmp_path / "cut", **settings) == 0
    assert result_of(tmp_path / "cut")["weights_sha256"] == result_of(tmp_path / "whole")["weights_sha256"]
