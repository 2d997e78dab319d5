"""The page of a comparison: intervals, pictures of disagreements, hostile names; with and without a script."""

import json
import re
import urllib.parse

import numpy as np
import pytest

from tests.evaluation.test_compare import TWO, made, of_fake, write_evaluation
from tests.helpers import browser
from tests.helpers.fake_gcs import FORBIDDEN, request_of, upload
from tests.helpers.tiny_export import write_image
from tests.reports.test_training_report import check_page
from trainer.data import manifest
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags
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
    path.write_text(compare.render(compared, ones, "", str(path)))
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
    files = [urllib.parse.unquote(link) for link in seen.links if not link.startswith("#")]
    assert set(files) == {f"data/{path}" for path in PATHS[::2]}


def of_data(compared, data_dir):
    """Return the disagreements and why they have no pictures, as if the images had been in another data_dir."""
    runs = [{**run, "data_dir": data_dir} for run in compared["runs"]]
    return compare_figures.disagreements({**compared, "runs": runs}, "/out/compare.html")


def test_without_the_images_the_page_says_so(page, tmp_path):
    _, compared = page
    for data_dir, why in ((None, "names no data"), (f"{tmp_path}/gone", "none of these images is there")):
        rows, because = of_data(compared, data_dir)
        assert why in because
        assert len(rows) == len(compared["disagreements"])
        assert all(not one.uri and not one.file for one in rows)
    write_image(tmp_path / "out.png", (1, 2, 3))
    for name in ("../out.png", f"{tmp_path}/out.png"):  # Names that lead out of data_dir.
        compared["disagreements"][0]["path"] = name
        first = of_data(compared, f"{tmp_path}/data")[0][0]
        assert (first.row["path"], first.uri, first.file) == (name, "", "")
    (tmp_path / "data" / "pack.json").write_text("{}")
    rows, because = of_data(compared, f"{tmp_path}/data")
    assert "pack again with this version" in because
    assert not any(one.uri or one.file for one in rows)


@pytest.fixture
def packed(page, tmp_path):
    """Return the folder of a packed set of the page's images."""
    for name in TWO:
        write_image(tmp_path / "data" / "Train" / name / "0.png", (9, 9, 9))
    write_image(tmp_path / "data" / "Test" / "Real" / "unscored.png", (9, 9, 9))
    request = PackFlags(data_dir=f"{tmp_path}/data", out=f"{tmp_path}/packed")
    writer.pack(request, manifest.read_all_splits(request.data_dir))
    return tmp_path / "packed"


def pictures_of(rows):
    return {one.row["path"]: one.uri for one in rows if one.uri}


@pytest.mark.slow
def test_packed_images_have_the_pictures_of_the_folder(page, packed, tmp_path):
    _, compared = page
    expected = pictures_of(of_data(compared, f"{tmp_path}/data")[0])
    rows, because = of_data(compared, str(packed))
    assert because == ""
    assert len(set(expected.values())) > 5
    assert pictures_of(rows) == expected
    assert not any(one.file for one in rows)
    next(packed.rglob("Test*.tfrecord")).unlink()
    rows, because = of_data(compared, str(packed))
    assert "cannot be read" in because
    assert pictures_of(rows) == {}


@pytest.mark.slow
def test_images_in_a_bucket_have_pictures_too(page, packed, bucket, gcs_server, tmp_path):
    _, compared = page
    expected = pictures_of(of_data(compared, f"{tmp_path}/data")[0])
    rows, because = of_data(compared, upload(tmp_path / "data", f"{bucket}/data"))
    assert (because, pictures_of(rows)) == ("", expected)
    shown = next(one for one in rows if one.uri)
    assert urllib.parse.unquote(shown.file) == (
        f"https://storage.cloud.google.com/{bucket.removeprefix('gs://')}/data/{shown.row['path']}"
    )
    rows, because = of_data(compared, upload(packed, f"{bucket}/packed"))
    assert (because, pictures_of(rows)) == ("", expected)
    with gcs_server.fault(match=request_of(bucket), status=403, message=FORBIDDEN):
        rows, because = of_data(compared, f"{bucket}/data")
    assert bucket in because
    assert pictures_of(rows) == {}


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
  const opener = document.querySelector("button.thumb");
  opener.focus();
  opener.click();
  const dialog = document.querySelector("dialog");
  const first = dialog.querySelector("img").alt, file = dialog.querySelector("a").href;
  press("ArrowRight");
  const second = dialog.querySelector("img").alt;
  press("ArrowLeft");
  press("ArrowLeft");  // There is none before the first.
  const again = dialog.querySelector("img").alt, words = dialog.querySelector("p").textContent;
  press("End");
  const last = dialog.querySelector("img").alt, opened = dialog.open;
  dialog.close();
  dialog.dispatchEvent(new Event("close"));  // The browser's own comes later.
  const pre = document.createElement("pre");
  pre.id = "did";
  pre.textContent = JSON.stringify(
    { rising, first, second, last, file, opened, again, words,
      back: document.activeElement.querySelector("img")?.alt });
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
    assert urllib.parse.unquote(did["file"]) == f"file://{tmp_path}/data/{images[0]}"
    assert did["opened"]
    assert did["back"] == images[-1]  # Where the reader was last.
    assert did["again"] == images[0]
    assert re.search(r"is Fake; weak [01]\.\d+ .* \(1 of \d+\)$", did["words"])
    assert np.unique(images).size == len(images)
