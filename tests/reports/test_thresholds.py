"""The threshold slider of an evaluation: its counts are those of the predictions, and it moves matrix and marks."""

import re

import numpy as np
import pytest

from tests.helpers import browser
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate
from trainer.core import cli
from trainer.evaluation.predictions import Predictions
from trainer.reports import evaluation_plots, thresholds


def predictions(scores, labels, threshold=0.5, positive=0):
    probabilities = np.stack([scores, 1 - np.asarray(scores)], axis=1)
    return Predictions.of(
        np.asarray(labels), probabilities if positive == 0 else probabilities[:, ::-1], ("Fake", "Real"), positive,
        threshold,
    )  # fmt: skip


@pytest.mark.parametrize("positive", [0, 1])
def test_every_step_counts_what_is_called_positive(positive):
    rng = np.random.default_rng(0)
    scores, labels = rng.random(2000).round(3), rng.integers(0, 2, 2000)
    made = predictions(scores, labels, 0.375, positive)
    data = thresholds.of_predictions(made)
    assert 300 < len(data["thresholds"]) < 500
    for at in (0, 7, data["own"], len(data["thresholds"]) - 1):
        called = made.p_fake >= data["thresholds"][at]
        assert data["found"][at] == (called & made.is_positive).sum()
        assert data["alarms"][at] == (called & ~made.is_positive).sum()
    own = made.predicted == made.positive
    assert data["thresholds"][data["own"]] == 0.375
    assert (data["found"][data["own"]], data["alarms"][data["own"]]) == (
        (own & made.is_positive).sum(), (own & ~made.is_positive).sum(),
    )  # fmt: skip


def test_there_is_no_slider_where_scores_cannot_be_ranked():
    assert thresholds.of_predictions(predictions([0.2, 0.3], [0, 0])) == {}


def test_the_counts_of_scores_without_true_classes():
    data = thresholds.of_scores([0.1, 0.5, 0.5, 0.9], 0.5, ("Fake", "Real"), 0)
    assert data["called"][data["own"]] == 3
    assert (data["called"][0], data["called"][-1], data["count"]) == (4, 0, 4)
    assert thresholds.of_scores([], 0.5, ("Fake", "Real"), 0) == thresholds.of_scores([0.5], 0.5, "abc", 0) == {}


def test_the_mark_of_the_det_curve_is_where_the_figure_has_its_own():
    made = predictions([0.9, 0.8, 0.3, 0.6, 0.1, 0.2], [0, 0, 0, 1, 1, 1])
    data, (axes,) = thresholds.of_predictions(made), evaluation_plots.det(made, 1 / 3).axes
    own = next(line for line in axes.lines if str(line.get_label()).startswith("threshold"))
    assert [axis[data["own"]] for axis in data["det"]] == pytest.approx(np.concatenate(own.get_data()), abs=1e-4)


def test_marks_are_placed_where_the_figure_has_its_own():
    made = predictions([0.9, 0.8, 0.3, 0.6, 0.1, 0.2], [0, 0, 0, 1, 1, 1])
    svg = thresholds.marked(evaluation_plots.roc(made, 1 / 3), "roc", "alt", "").svg
    left, bottom, right, top, x0, y0, x1, y1 = map(float, re.search(r'data-frame="([^"]+)"', svg)[1].split())
    # The operating point: 1 alarm and 2 hits of 3 each.
    candidates = [tuple(map(float, pair)) for pair in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg)]
    expected = (left + (1 / 3 - x0) / (x1 - x0) * (right - left), bottom + (2 / 3 - y0) / (y1 - y0) * (top - bottom))
    assert any(pair == pytest.approx(expected, abs=0.5) for pair in candidates), (expected, candidates)


def test_marks_of_the_calibration_lie_where_its_confidences_do():
    made = predictions([0.9, 0.8, 0.3, 0.6, 0.1, 0.2], [0, 0, 0, 1, 1, 1])
    figure = evaluation_plots.reliability(made)
    svg = thresholds.marked(figure, "confidence", "alt", "").svg
    left, bottom, right, top, x0, _, x1, _ = map(float, re.search(r'data-frame="([^"]+)"', svg)[1].split())
    (upper, lower) = figure.axes
    assert (x0, x1) == pytest.approx(upper.get_xlim(), abs=1e-4)
    dots = [float(x) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg) if left < float(x) < right]
    assert any(x == pytest.approx(left + (0.8 - x0) / (x1 - x0) * (right - left), abs=0.5) for x in dots), dots
    height = figure.get_size_inches()[1] * 72
    ends = (1 - lower.get_position().y0) * height, (1 - upper.get_position().y1) * height
    assert (bottom, top) == pytest.approx(ends, abs=0.5)


_READER = """<script>addEventListener("load", () => {
  const slider = document.querySelector("#threshold-controls input"), out = [];
  const cells = () => [...document.querySelectorAll("table.matrix td b")].map(cell => cell.textContent).join(" ");
  const mark = (kind = "roc") => document.querySelector(`svg[data-mark="${kind}"] .threshold`).getAttribute("cx");
  out.push(cells(), mark());
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
  out.push(cells(), mark(), document.querySelector("#threshold-controls output").textContent);
  document.querySelector("#threshold-controls button").click();
  out.push(cells(), mark("det"));
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
  out.push(mark("det"));
  const calibration = document.querySelector('svg[data-mark="confidence"]');
  const lines = () => [...calibration.querySelectorAll(".threshold")].map(line => line.getAttribute("x1")).join(" ");
  out.push(lines());
  document.querySelector("#threshold-controls button").click();
  out.push(lines(), calibration.dataset.frame, calibration.closest("figure").querySelector("figcaption").textContent);
  document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: out.join("\\n") }));
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")
def test_the_slider_moves_matrix_and_marks(tmp_path, capsys):
    write_export(tmp_path / "best" / "1", ["Fake", "Real"])
    for name, reds in {"Fake": [250, 90, 180], "Real": [20, 220]}.items():
        for index, red in enumerate(reds):
            write_image(tmp_path / "data" / "Test" / name / f"{index}.png", (red, 40, 60))
    words = [f"--model_dir={tmp_path}/best", f"--data_dir={tmp_path}/data", f"--out={tmp_path}/out", "--bootstrap=0"]
    assert cli.run_command(evaluate.main, words) == 0
    capsys.readouterr()
    page = tmp_path / "out" / "report.html"
    assert "2</b>66.7%" in page.read_text()  # The matrix without a script.
    read = tmp_path / "read.html"
    read.write_text(page.read_text().replace("</body>", _READER + "</body>"))
    seen = re.search(r'<pre id="probe">(.*?)</pre>', browser.dom(read, tmp_path), re.DOTALL)[1].splitlines()
    assert (seen[0], seen[2], seen[5]) == ("2 1 1 1", "3 0 2 0", "2 1 1 1")
    assert float(seen[3]) > float(seen[1]) + 20  # Everything is called Fake: the upper right corner.
    assert float(seen[7]) > float(seen[6]) + 20
    assert seen[4] == "threshold 0.00: 100.0% of Fake found, 100.0% of Real called Fake, accuracy 60.0%"
    own = [float(place) for place in seen[9].split()]
    left, bottom, right, top, x0, _, x1, _ = map(float, seen[10].split())
    assert x0 > 0.5  # All answers are surer than the threshold, which stands at the edge then.
    assert own == pytest.approx([left] * 2)
    assert bottom - top > 200  # Across both parts of the figure.
    least, most = (float(place) for place in seen[8].split())
    assert (least, most) == (pytest.approx(left), pytest.approx(left + (1 - x0) / (x1 - x0) * (right - left)))
    assert "least confidence of an answer Fake (solid) and Real (dashed)" in seen[11]
    look = browser.look(page, tmp_path, width=390, dark=True)
    assert (look["page"], look["wide"], look["errors"], look["loaded"]) == (390, [], [], [])
