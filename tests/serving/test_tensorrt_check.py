"""What TensorRT's parser would refuse in an ONNX model is named, and exported networks have none of it."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.core.config import ModelConfig
from trainer.data.input_rule import InputRule
from trainer.models import keras_settings, registry
from trainer.serving import convert, tensorrt_check
from trainer.serving.saved_model import ServingModel

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
SIZE = 64


def content(*nodes, constants=(), batch="batch", side=4, opset=17, domain=""):
    """Return a model of these nodes between 8-bit images and probabilities, after a Cast to ``x``."""
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, side, side, 3])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 2])
    cast = helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT)
    graph = helper.make_graph([cast, *nodes], "graph", [images], [out], list(constants))
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets).SerializeToString()


def node(kind, *inputs, outputs=("probabilities",)):
    return onnx.helper.make_node(kind, list(inputs), list(outputs), name=f"a_{kind}")


def constant(values, dtype):
    return onnx.numpy_helper.from_array(np.asarray(values, dtype), "c")


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda: content(node("Relu", "x")), None),
        (lambda: content(node("Slice", "x", "c"), constants=[constant([0, 2**63 - 1], np.int64)]), None),
        (lambda: content(node("Log1p", "x")), "the operator Log1p"),
        (lambda: content(node("Relu", "x"), opset=8), "opset 8, expected 9 to 20"),
        (lambda: content(node("Relu", "x"), domain="ai.onnx.ml"), "operators of ai.onnx.ml"),
        (lambda: content(node("Relu", "x"), batch="unk__7"), "images whose first axis is unk__7, expected batch"),
        (lambda: content(node("Relu", "x"), batch=8), "images whose first axis is 8, expected batch"),
        (lambda: content(node("Relu", "x"), side="height"), "images with an open axis beside the batch"),
        (lambda: content(node("Relu", "images")), "Relu of 8-bit pixels, expected Cast"),
        (lambda: content(node("Conv", "x", "x")), "the convolution a_Conv, whose weights are computed"),
        (lambda: content(node("MaxPool", "x", outputs=("probabilities", "places"))), "the pooling a_MaxPool, which"),
        (
            lambda: content(node("Add", "x", "c"), constants=[constant([2**40], np.int64)]),
            "whose integers need 64 bits",
        ),
        (lambda: content(node("Add", "x", "c"), constants=[constant([1], np.uint16)]), "the constant c of type UINT16"),
    ],
)
def test_what_it_would_refuse_is_named(model, problem):
    problems = tensorrt_check.problems(model())
    if problem is None:
        assert problems == []
        assert "takes model.onnx" in tensorrt_check.to_text(tensorrt_check.verdict(model()))
    else:
        assert any(problem in each for each in problems), problems
        assert "would refuse model.onnx: " in tensorrt_check.to_text(tensorrt_check.verdict(model()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_bn", "forensic/srm", "forensic/dct", "tests.helpers.networks:small_convnext"])
def test_exported_networks_have_none_of_it_and_run(name):
    for package in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    network, _, front_end = name.partition("/")
    config = ModelConfig(model=network, **({"front_end": front_end} if front_end else {}))
    with keras_settings.pinned():
        model = registry.build(config, num_classes=2, image_size=SIZE, seed=1)
    serving = ServingModel(model, ["Fake", "Real"], 0, 0.5, InputRule(SIZE), temperature=2.0)
    written = convert.to_onnx(convert.freeze(serving.of_pixels()))
    assert tensorrt_check.problems(written) == []
    images = tf.random.stateless_uniform([3, SIZE, SIZE, 3], [0, 1], 0, 256, tf.int32).numpy().astype(np.uint8)
    np.testing.assert_allclose(convert.run_onnx(written)(images), serving.of_one_view(images), atol=1e-5)
