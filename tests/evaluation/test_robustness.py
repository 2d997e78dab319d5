"""Distortions, and figures under them, of a model whose score is the mean red of an image."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.tiny_export import write_export
from trainer import evaluate
from trainer.core import cli
from trainer.evaluation import robustness


def picture(seed=0, height=40, width=30):
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], dtype=np.uint8)


@pytest.mark.parametrize("kind", robustness.KINDS)
def test_a_distortion_is_a_function_of_seed_and_image(kind):
    image = picture()
    what = robustness.KINDS[kind]
    for strength in what.strengths:
        first = robustness.distort(image, kind, strength, seed=3, number=5)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, robustness.distort(image, kind, strength, seed=3, number=5))
        if kind != "crop":
            assert first.shape == image.shape
        assert first.shape != image.shape or (first != image).any()
    other = robustness.distort(image, kind, what.strengths[-1], seed=3, number=6)
    assert (first != other).any() == (kind == "noise")
    np.testing.assert_array_equal(image, picture())  # Not changed in place.


def test_distortions_by_hand():
    image = picture()
    np.testing.assert_array_equal(robustness.distort(image, "crop", 0.6, seed=0, number=0), image[8:32, 6:24])
    np.testing.assert_array_equal(
        robustness.distort(image, "brightness", 0.5, seed=0, number=0), np.rint(image / 2).astype(np.uint8)
    )
    gray = np.full([200, 200, 3], 128, np.uint8)
    noisy = robustness.distort(gray, "noise", 10, seed=1, number=1).astype(float) - 128
    assert noisy.std() == pytest.approx(10, rel=0.03)
    spread = [robustness.distort(image, "blur", sigma, seed=0, number=0).std() for sigma in (0.5, 1, 2, 4)]
    assert spread == sorted(spread, reverse=True)
    errors = [
        np.abs(robustness.distort(image, "jpeg", q, seed=0, number=0) - image.astype(int)).mean() for q in (95, 50)
    ]
    assert errors[0] < errors[1]


def test_images_are_chosen_by_class():
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    chosen = robustness.choose(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [90, 9, 1]
    assert len(np.unique(chosen)) == len(chosen)
    assert robustness.choose(labels, 0).tolist() == list(range(1000))


@pytest.mark.slow
def test_robustness_in_all_three_results(tmp_path, capsys):
    write_export(tmp_path / "best" / "1", ["Fake", "Real"])
    for name, reds in {"Fake": [250, 200, 180, 140], "Real": [40, 60, 100, 90]}.items():
        folder = tmp_path / "data" / "Test" / name
        folder.mkdir(parents=True)
        for index, red in enumerate(reds):
            Image.fromarray(np.full([24, 24, 3], (red, 90, 90), np.uint8)).save(folder / f"{index}.png")
    out = tmp_path / "out"
    words = [f"--model_dir={tmp_path}/best", f"--data_dir={tmp_path}/data", f"--out={out}", "--bootstrap=20"]
    assert cli.run_command(evaluate.main, [*words, "--robustness", "--robustness_images=6"]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((out / "metrics.json").read_text())
    found = figures["robustness"]
    assert (found["images"], found["of"]) == (6, 8)
    assert {kind: [r["strength"] for r in what["results"]] for kind, what in found["kinds"].items()} == {
        kind: list(what.strengths) for kind, what in robustness.KINDS.items()
    }
    assert (found["unchanged"]["accuracy"], found["unchanged"]["auc"]) == (1.0, 1.0)
    darker = {r["strength"]: r["accuracy"] for r in found["kinds"]["brightness"]["results"]}
    assert darker[0.5] == 0.5  # Every red is below a half of 255 then.
    assert darker[1.5] == pytest.approx(4 / 6)  # 90 and 100 become 135 and 150.
    assert all(r["accuracy"] == 1.0 for r in found["kinds"]["crop"]["results"])
    page = (out / "report.html").read_text()
    for sentence in ("No distortion lowers the AUC", "Scored on 6 of 8 images", "JPEG, quality: 30"):
        assert sentence in page
    assert "No distortion lowers the AUC of 1.000." in printed
