"""A torch state dict is read without torch, and nothing that its pickle asks for is run."""

import zipfile

import numpy as np
import pytest

from tests.helpers import torch_files
from tests.helpers.torch_files import Call, Global, pickles_of, state_dict, tensor, zip_of
from trainer.core.errors import RequestError
from trainer.models.weights import source, torch_file, torch_names

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "stem.weight": RANDOM.standard_normal((4, 3, 2, 2)).astype("<f4"),
    "stem.bias": RANDOM.standard_normal(4).astype("<f4"),
}


def refused(content):
    with pytest.raises(RequestError) as caught:
        torch_file.read(content)
    return str(caught.value)


@pytest.mark.parametrize("write", [zip_of, pickles_of])
def test_both_formats_hold_the_same(write):
    tensors = torch_file.read(write(*state_dict(ARRAYS)))
    assert tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_numbers_of_all_kinds_become_float32():
    kinds = {"half": np.float16([1.5, -2]), "double": np.array([0.1]), "long": np.int64([7])}
    tensors = torch_file.read(zip_of(*state_dict(kinds)))
    assert {array.dtype for array in tensors.values()} == {np.dtype("float32")}
    assert [tensors[name].tolist() for name in ("half", "long")] == [[1.5, -2], [7]]
    assert tensors["double"][0] == np.float32(0.1)
    upper = np.float32([1.0, -3.5]).view(np.uint32) >> 16
    state = {"b": tensor("0", (2,), (1,), kind="BFloat16Storage", length=2)}
    assert torch_file.read(zip_of(state, {"0": upper.astype("<u2").tobytes()}))["b"].tolist() == [1.0, -3.5]


def test_views_of_a_storage_are_taken_by_offset_and_strides():
    numbers = np.arange(12, dtype="<f4")
    state = {"transposed": tensor("0", (3, 2), (1, 3), length=12, offset=6)}
    expected = numbers[6:].reshape(2, 3).T
    np.testing.assert_array_equal(torch_file.read(zip_of(state, {"0": numbers.tobytes()}))["transposed"], expected)


def test_a_training_scripts_checkpoint_and_several_gpus_are_known():
    tensors, storages = state_dict({f"module.{name}": array for name, array in ARRAYS.items()})
    assert torch_file.read(zip_of({"epoch": 3, "state_dict": tensors}, storages)).keys() == ARRAYS.keys()


@pytest.mark.parametrize("write", [zip_of, pickles_of])
@pytest.mark.parametrize(
    "name", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "_rebuild_tensor"),
             ("collections", "Counter")]
)  # fmt: skip
def test_any_other_name_is_refused_by_name_and_not_called(write, name, tmp_path):
    path = tmp_path / "written"
    bomb = Call(Global(*name), (f"touch {path}",))
    assert f"a pickle that calls {'.'.join(name)}, which is not run" in refused(write({"a": bomb}, {}))
    assert not path.exists()


def test_a_pickle_cannot_change_the_stand_ins():
    """BUILD sets attributes of the object below it: neither a function nor a tensor here takes any."""
    state = b"N" + torch_files.pickled({"__call__": 1})[2:-1] + b"\x86b"  # (None, {...}), BUILD
    rebuild = torch_files.pickled(Global("torch._utils", "_rebuild_tensor_v2"))[2:-1]
    one = torch_files.pickled(tensor("0", (1,), (1,), length=1))[2:-1]
    for target in (rebuild, one):
        with pytest.raises(AttributeError):
            torch_file._Unpickler(torch_file.io.BytesIO(b"\x80\x02" + target + state + b".")).load()


@pytest.mark.parametrize(
    "changes",
    [{"shape": (5,)}, {"offset": 3}, {"offset": -1}, {"strides": (2,)}, {"shape": (-2,)}, {"strides": (-1,)},
     {"shape": (10**12,), "strides": (0,)}],
)  # fmt: skip
def test_a_tensor_outside_of_its_storage_is_refused(changes):
    values = {"shape": (4,), "strides": (1,), "offset": 0, **changes}
    state = {"a": tensor("0", length=4, **values)}
    assert "expected tensors within their storages" in refused(zip_of(state, {"0": bytes(16)}))


@pytest.mark.parametrize("write", [zip_of, pickles_of])
def test_a_file_that_is_cut_short_or_damaged_is_one_line(write):
    content = write(*state_dict(ARRAYS))
    for size in (3, 40, len(content) // 2, len(content) - 3):
        assert "\n" not in refused(content[:size])
    state = {"a": tensor("0", (4,), (1,), length=4)}
    assert "cut short" in refused(write(state, {"0": bytes(12)}))


def test_other_pickles_and_zips_are_refused():
    assert "expected a file of torch.save" in refused(torch_files.pickled({"a": 1}) * 5)
    assert "not compressed" in refused(zip_of(*state_dict(ARRAYS), compression=zipfile.ZIP_DEFLATED))
    assert "expected a state dict of tensors, received none" in refused(zip_of({"a": 1, "b": {"c": "d"}}, {}))


def test_another_format_is_refused_with_what_it_begins_with(tmp_path):
    for content in (b"GIF89a....", b"", b"PK\x03\x04rest"):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"expected a Keras file .* or a torch state dict") as caught:
            source.read_file(str(path))
        assert str(caught.value).startswith(f"--weights={path}: ")
        assert repr(content[:8]) in str(caught.value)


def kernel(*shape):
    return RANDOM.standard_normal(shape).astype("<f4")


def batch_norm(layer, channels):
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{layer}.{leaf}": kernel(channels) for leaf in leaves} | {f"{layer}.num_batches_tracked": np.int64(5)}


def efficientnet(names):
    """Return the first two blocks of a small EfficientNet, its layers named as given."""
    stem, stem_bn, *first, fc = names
    depthwise, depthwise_bn, project, project_bn, expand, expand_bn, later_depthwise = first
    return {
        f"{stem}.weight": kernel(8, 3, 3, 3), **batch_norm(stem_bn, 8),
        f"{depthwise}.weight": kernel(8, 1, 3, 3), **batch_norm(depthwise_bn, 8),
        f"{project}.weight": kernel(4, 8, 1, 1), **batch_norm(project_bn, 4),
        f"{expand}.weight": kernel(24, 4, 1, 1), **batch_norm(expand_bn, 24),
        f"{later_depthwise}.weight": kernel(24, 1, 5, 5),
        f"{fc}.weight": kernel(10, 6), f"{fc}.bias": kernel(10),
    }  # fmt: skip


SPELLINGS = {
    "lukemelas": ("_conv_stem", "_bn0", "_blocks.0._depthwise_conv", "_blocks.0._bn1", "_blocks.0._project_conv",
                  "_blocks.0._bn2", "_blocks.1._expand_conv", "_blocks.1._bn0", "_blocks.1._depthwise_conv", "_fc"),
    "timm": ("conv_stem", "bn1", "blocks.0.0.conv_dw", "blocks.0.0.bn1", "blocks.0.0.conv_pw", "blocks.0.0.bn2",
             "blocks.1.0.conv_pw", "blocks.1.0.bn1", "blocks.1.0.conv_dw", "classifier"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_efficientnets_get_the_names_and_layouts_of_our_networks(spelling):
    names = SPELLINGS[spelling]
    tensors = efficientnet(names)
    if spelling == "timm":  # By its last convolution timm's second kind of block is known.
        tensors["blocks.1.0.conv_pwl.weight"] = kernel(4, 24, 1, 1)
    arrays = torch_names.to_keras(tensors)
    layers = (
        "stem_conv", "stem_bn", "block0_depthwise_conv", "block0_depthwise_bn", "block0_project_conv",
        "block0_project_bn", "block1_expand_conv", "block1_expand_bn", "block1_depthwise_conv", "logits",
    )  # fmt: skip
    assert {name.split("/")[0] for name in arrays} - {"block1_project_conv"} == set(layers)
    torch_name = dict(zip(layers, names, strict=True))
    for leaf, theirs in {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
                         "moving_variance": "running_var"}.items():  # fmt: skip
        np.testing.assert_array_equal(arrays[f"block1_expand_bn/{leaf}"],
                                      tensors[f"{torch_name['block1_expand_bn']}.{theirs}"])  # fmt: skip
    assert not [name for name in arrays if "num_batches" in name]
    stem = tensors[f"{torch_name['stem_conv']}.weight"]
    assert arrays["stem_conv/kernel"][2, 1, 0, 5] == stem[5, 0, 2, 1]
    depthwise = tensors[f"{torch_name['block1_depthwise_conv']}.weight"]
    assert arrays["block1_depthwise_conv/kernel"].shape == (5, 5, 24, 1)
    assert arrays["block1_depthwise_conv/kernel"][4, 2, 7, 0] == depthwise[7, 0, 4, 2]
    np.testing.assert_array_equal(arrays["logits/kernel"], tensors[f"{torch_name['logits']}.weight"].T)
    np.testing.assert_array_equal(arrays["logits/bias"], tensors[f"{torch_name['logits']}.bias"])


def test_blocks_of_timm_are_counted_over_the_stages():
    tensors = {"conv_stem.weight": kernel(8, 3, 3, 3)}
    tensors |= {f"blocks.{stage}.{block}.bn1.weight": kernel(4) for stage, block in ((0, 0), (1, 0), (1, 1), (10, 0))}
    names = {name.split("/")[0] for name in torch_names.to_keras(tensors)}
    assert names == {"stem_conv", *(f"block{number}_depthwise_bn" for number in range(4))}
