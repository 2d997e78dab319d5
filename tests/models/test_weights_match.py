"""Arrays of a file find their variables by name and shape; what finds none is listed on both sides."""

import numpy as np
import pytest

from trainer.models.weights import match
from trainer.models.weights.match import Difference


def arrays(**shapes):
    random = np.random.default_rng(0)
    return {name.replace("__", "/"): random.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


NETWORK = {"stem_conv/kernel": (3, 3, 3, 8), "stem_bn/gamma": (8,), "stem_bn/beta": (8,), "stem_bn/moving": (2, 8),
           "logits/kernel": (8, 2), "logits/bias": (2,)}  # fmt: skip
FILE = arrays(stem_conv__kernel=(3, 3, 3, 8), stem_bn__gamma=8, stem_bn__beta=8, stem_bn__moving_mean=8,
              stem_bn__moving_variance=8, predictions__kernel=(8, 1000))  # fmt: skip


def test_mean_and_variance_become_the_two_rows_of_moving():
    outcome = match.match(NETWORK, FILE)
    assert outcome.taken == {
        "stem_conv/kernel": ["stem_conv/kernel"], "stem_bn/gamma": ["stem_bn/gamma"], "stem_bn/beta": ["stem_bn/beta"],
        "stem_bn/moving": ["stem_bn/moving_mean", "stem_bn/moving_variance"],
    }  # fmt: skip
    rows = [FILE["stem_bn/moving_mean"], FILE["stem_bn/moving_variance"]]
    np.testing.assert_array_equal(outcome.values["stem_bn/moving"], rows)
    assert outcome.missing == ["logits/kernel", "logits/bias"]
    assert outcome.missing_besides_classifier == outcome.differing == []
    assert outcome.unused == ["predictions/kernel"]


def test_our_own_moving_is_taken_as_it_is():
    file = arrays(stem_bn__moving=(2, 8))
    assert match.match(NETWORK, file).taken == {"stem_bn/moving": ["stem_bn/moving"]}


@pytest.mark.parametrize(
    ("name", "held"),
    [("stem_bn/gamma", "functional_3/stem_bn/gamma:0"), ("conv_bn/gamma", "Conv_BatchNorm/gamma"),
     ("stem_bn/gamma", "model_1/sequential/stem_bn/gamma"), ("outer/stem_bn/gamma", "stem_bn/gamma"),
     ("dw/kernel", "dw/depthwise_kernel"), ("dw/depthwise_kernel", "dw/kernel"),
     ("layer_scale/gamma", "layer_scale/Variable")],
)  # fmt: skip
def test_spellings_of_one_name(name, held):
    outcome = match.match({name: (8,)}, {held: np.ones(8)})
    assert outcome.taken == {name: [held]}


def test_an_ambiguous_name_is_not_guessed():
    file = arrays(left__stem_bn__gamma=8, right__stem_bn__gamma=8)
    assert match.match({"stem_bn/gamma": (8,)}, file).taken == {}
    assert match.match(dict.fromkeys(file, (8,)), file).taken == {name: [name] for name in file}
    model = {"a/norm/gamma": (8,), "b/norm/gamma": (8,)}
    assert match.match(model, arrays(norm__gamma=8)).taken == {}


def test_another_shape_is_named_and_not_taken():
    file = {**FILE, "stem_conv/kernel": np.zeros((5, 5, 3, 8)), "logits/kernel": np.zeros((8, 1000))}
    outcome = match.match(NETWORK, file)
    assert outcome.differing == [
        Difference("stem_conv/kernel", (3, 3, 3, 8), "stem_conv/kernel", (5, 5, 3, 8)),
        Difference("logits/kernel", (8, 2), "logits/kernel", (8, 1000)),
    ]
    assert str(outcome.differing[0]) == "stem_conv/kernel [3, 3, 3, 8] (file: [5, 5, 3, 8])"
    assert outcome.missing_besides_classifier == ["stem_conv/kernel"]
    assert "stem_conv/kernel" in outcome.unused
    assert "stem_conv/kernel" not in outcome.values


def test_a_convolution_in_groups_of_one_channel_is_a_depthwise_one():
    kernel = np.random.default_rng(0).random([7, 7, 1, 6])
    outcome = match.match({"depthwise/kernel": (7, 7, 6, 1)}, {"depthwise/kernel": kernel})
    np.testing.assert_array_equal(outcome.values["depthwise/kernel"][:, :, 4, 0], kernel[:, :, 0, 4])


def test_transposed_and_equal_counts_are_other_shapes():
    outcome = match.match({"a/kernel": (3, 4)}, {"a/kernel": np.zeros((4, 3))})
    assert outcome.taken == {}
    assert len(outcome.differing) == 1
    uneven = {"n/moving_mean": np.zeros(8), "n/moving_variance": np.zeros(7)}
    assert match.match({"n/moving": (2, 8)}, uneven).taken == {}


NAMED = {f"block{number}/kernel": (3, 3, 8, 8) for number in range(4)}
RESIDUAL = {"res1/kernel": (1, 1, 8, 16), "res2/kernel": (1, 1, 16, 32), "res1_bn/gamma": (16,), "res1_bn/beta": (16,),
            "res1_bn/moving": (2, 16)}  # fmt: skip


def test_layers_that_keras_named_are_found_by_shapes_that_fit_one_alone():
    """Xception's shortcuts have no names of their own in ``keras.applications``."""
    automatic = arrays(conv2d_7__kernel=(1, 1, 16, 32), conv2d_1__kernel=(1, 1, 8, 16), batch_normalization__gamma=16,
                       batch_normalization__beta=16, batch_normalization__moving_mean=16,
                       batch_normalization__moving_variance=16)  # fmt: skip
    named = {name: np.ones(shape) for name, shape in NAMED.items()}
    outcome = match.match({**NETWORK, **NAMED, **RESIDUAL}, {**FILE, **named, **automatic})
    assert outcome.taken["res1/kernel"] == ["conv2d_1/kernel"]
    assert outcome.taken["res2/kernel"] == ["conv2d_7/kernel"]
    assert outcome.taken["res1_bn/moving"] == [
        f"batch_normalization/{leaf}" for leaf in ("moving_mean", "moving_variance")
    ]
    twice = {**automatic, **arrays(conv2d_9__kernel=(1, 1, 8, 16))}
    outcome = match.match({**NETWORK, **NAMED, **RESIDUAL}, {**FILE, **named, **twice})
    assert "res1/kernel" in outcome.missing
    assert "res2/kernel" in outcome.taken


def test_shapes_alone_do_not_pair_different_networks():
    other = arrays(conv2d__kernel=(3, 3, 3, 8), dense__kernel=(8, 2), dense__bias=2)
    assert match.match(NETWORK, other).taken == {}
    assert "logits/kernel" in match.match(NETWORK, {**FILE, **other}).missing  # Whose classes nobody knows.
