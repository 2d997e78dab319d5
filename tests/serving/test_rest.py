"""Every form of a request body in docs/serving.md and TensorFlow Serving's REST API, on an export's signatures."""

import base64
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import rest
from tests.helpers.tiny_export import SIZE, write_export, write_image

REDS = (250, 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tf.saved_model.load(write_export(tmp_path_factory.mktemp("rest") / "7", ["Fake", "Real"], explains=True))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return files of images whose p_fake is red / 255."""
    folder = tmp_path_factory.mktemp("photos")
    for red in REDS:
        write_image(folder / f"{red} a.png", (red, 90, 120))
    return [folder / f"{red} a.png" for red in REDS]


def encoded(path):
    return {"b64": base64.b64encode(path.read_bytes()).decode()}


@pytest.mark.slow
def test_the_documented_body(model, photos):
    (prediction,) = rest.predict(model, rest.documented_body(photos[0]))["predictions"]
    assert set(prediction) == {"probabilities", "label", "p_fake"}
    assert prediction["label"] == "Fake"
    assert prediction["p_fake"] == pytest.approx(250 / 255, abs=1e-5)
    assert prediction["probabilities"] == pytest.approx([250 / 255, 5 / 255], abs=1e-5)


def test_all_forms_give_the_same_answers(model, photos):
    images = [encoded(path) for path in photos]
    named = rest.predict(model, json.dumps({"instances": [{"image_bytes": image} for image in images]}))
    short = rest.predict(model, json.dumps({"instances": images}))
    assert named == short
    assert [row["label"] for row in named["predictions"]] == ["Fake", "Real"]
    assert [row["p_fake"] for row in named["predictions"]] == pytest.approx([red / 255 for red in REDS], abs=1e-5)
    columns = rest.predict(model, json.dumps({"inputs": {"image_bytes": images}}))
    unnamed = rest.predict(model, json.dumps({"inputs": images}))
    assert columns == unnamed
    assert {name: [row[name] for row in named["predictions"]] for name in columns["outputs"]} == columns["outputs"]


@pytest.mark.slow
def test_the_documented_heat_map(model, photos):
    (words,) = re.findall(r'`("signature_name": "explain")`', rest.documented_section())
    request = {**json.loads(rest.documented_body(photos[1])), **json.loads(f"{{{words}}}")}
    (prediction,) = rest.predict(model, json.dumps(request))["predictions"]
    heatmap = np.array(prediction["heatmap"])
    assert heatmap.shape == (SIZE, SIZE)
    assert heatmap.max() == pytest.approx(40 / 255, abs=1e-5)
    columns = rest.predict(
        model, json.dumps({"signature_name": "explain", "inputs": {"image_bytes": [encoded(photos[1])]}})
    )
    np.testing.assert_allclose(columns["outputs"]["heatmap"], [heatmap])


def test_pixels(model):
    pixels = np.full([2, 5, 4, 3], [100, 0, 0], np.uint8).tolist()
    body = json.dumps({"signature_name": "serve_images", "instances": [{"images": image} for image in pixels]})
    answers = rest.predict(model, body)["predictions"]
    assert [row["p_fake"] for row in answers] == pytest.approx([100 / 255] * 2, abs=1e-5)


def test_the_documented_address_is_the_containers():
    section = rest.documented_section()
    (name,) = re.findall(r"MODEL_NAME=(\w+)", section)
    assert f':/models/{name}"' in section
    assert f"http://localhost:8501/v1/models/{name}:predict" in section
    assert "-p 8501:8501" in section
