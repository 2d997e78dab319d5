"""The page of a comparison: intervals, pictures of disagreements, hostile names; with and without a script."""

import json
import re

import numpy as np
import pytest

from tests.evaluation.test_compare import TWO, made, of_fake, write_evaluation
from tests.helpers import browser
from tests.helpers.tiny_export import write_image
from tests.reports.test_training_report import check_page
from trainer.evaluation import compare as numbers
from trainer.evaluation import sources
from trainer.reports import compare, compare_figures
from trainer.reports.parts import forest

HOSTILE = "<img src=x onerror=alert(1)>&\"'"
HIDING = "\u202e\\u"  # Text after the first would run from the right to the left.
PATHS = [f"Test/{TWO[number % 2]}/{HOSTILE}{number}.png" for number in range(40)]


@pytest.fixture
def page(tmp_path):
    data = tmp_path / "data"
    for number in range(0, 40, 2):  # The other class's files are gone.
        write_image(data / PATHS[number], (6 * number, 40, 60))
    for name, seed, skill in (("weak", 1, 0.3), (f"strong{HOSTILE}{HIDING}", 2, 2.0)):
        labels, p_fake = made(seed, count=40, skill=skill)
        write_evaluation(tmp_path / name, PATHS, labels, of_fake(p_fake), data_dir=str(data))
    ones = numbers.in_common(numbers.read_evaluations(f"{tmp_path}/weak,{tmp_path}/strong{HOSTILE}{HIDING}"))
    compared = numbers.measure(ones, sources.Sources(None, "each image"), resamples=50, seed=0)
    path = tmp_path / "compare.html"
    path.write_text(compare.render(compared, ones, ""))
    return path, compared


def test_the_page_holds_intervals_and_pictures_without_a_script(page, tmp_path):
    path, compared = page
    text = path.read_text()
    seen = check_page(text)
    assert "<img src=x" not in text
    assert HIDING[0] not in text
    assert "AUC: difference from weak" in text
    words = compared["differences"][f"strong{HOSTILE}{HIDING}"]["auc"]
    assert f"{words['difference']:+.3f} ({words['ci95'][0]:+.3f} to {words['ci95'][1]:+.3f}), better" in text
    shown = [row["path"] for row in compared["disagreements"][:24] if row["path"].startswith("Test/Fake")]
    assert [image["alt"] for image in seen.images] == shown
    assert 0 < len(shown) < 24
    row = next(row for row in compared["disagreements"] if row["path"] == shown[0])
    for value in row["p_fake"].values():  # Both scores.
        assert f"{value:.3f}" in seen.images[0]["data-words"]
    files = [link for link in seen.links if link.startswith("file://")]
    assert set(files) == {(tmp_path / "data" / path).as_uri() for path in PATHS[::2]}


def test_without_the_images_the_page_says_so(page):
    _, compared = page
    for run in compared["runs"]:
        run["data_dir"] = "gs://bucket/data"
    assert all(not one.uri and not one.file for one in compare_figures.disagreements(compared))
    compared["disagreements"][0]["path"] = "../compare.html"
    assert compare_figures.disagreements({**compared, "runs": [{"data_dir": "/"}]})[0].file == ""


def test_marks_of_a_forest_lie_where_their_values_do():
    rows = [forest.Row("a", 0.5, (0.25, 1.0), "half"), forest.Row("b", None, None, "undefined")]
    drawn = forest.Forest("T", rows, "{:g}".format, reference=0.0)
    first, second = (str(track) for _, track in drawn.tracks)
    places = [float(re.search(pattern, first)[1]) for pattern in (r'reference" x1="([\d.]+)', r'cx="([\d.]+)')]
    ends = [float(place) for place in re.search(r'interval" x1="([\d.]+)%" x2="([\d.]+)%', first).groups()]
    assert places == pytest.approx([6 / 1.12, 56 / 1.12], abs=0.01)  # The axis is 6% longer on both sides.
    assert ends == pytest.approx([31 / 1.12, 106 / 1.12], abs=0.01)
    assert "circle" not in second
    assert ">0.5<" in str(drawn.axis)


_ACTIONS = """<script>addEventListener("load", () => {
  const press = key => document.querySelector("dialog").dispatchEvent(new KeyboardEvent("keydown", { key }));
  const table = document.querySelector("#disagreements table");
  const paths = () => [...table.tBodies[0].rows].map(row => [...row.cells].pop().textContent);
  const button = table.tHead.querySelector("th:last-child button");
  button.focus();
  button.click();
  const rising = paths();
  const opener = document.querySelector("button.zoom");
  opener.focus();
  opener.click();
  const dialog = document.querySelector("dialog");
  const first = dialog.querySelector("img").alt, file = dialog.querySelector("a").href;
  press("ArrowRight");
  const second = dialog.querySelector("img").alt;
  press("ArrowLeft");
  press("ArrowLeft");
  const last = dialog.querySelector("img").alt, opened = dialog.open;
  dialog.close();
  const pre = document.createElement("pre");
  pre.id = "did";
  pre.textContent = JSON.stringify(
    { rising, first, second, last, file, opened, back: document.activeElement === opener });
  document.body.append(pre);
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")
def test_tables_sort_and_pictures_open_by_keyboard(page, tmp_path):
    path, _ = page
    seen = browser.look(path, tmp_path, width=390, dark=True)
    assert (seen["errors"], seen["loaded"], seen["broken"], seen["wide"]) == ([], [], [], [])
    images = [image["alt"] for image in check_page(path.read_text()).images]
    path.write_text(path.read_text().replace("</body>", _ACTIONS + "</body>"))
    did = json.loads(re.search(r'<pre id="did">(.*?)</pre>', browser.dom(path, tmp_path))[1])
    assert did["rising"] == sorted(did["rising"]) != sorted(did["rising"], reverse=True)
    assert [did["first"], did["second"], did["last"]] == [images[0], images[1], images[-1]]
    assert did["file"] == (tmp_path / "data" / images[0]).as_uri()
    assert did["opened"]
    assert did["back"]
    assert np.unique(images).size == len(images)
