"""What an audit leads to: clusters, a drop list, outliers, sources and doubtful labels."""

import json
import re
import shutil
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.data.test_audit import audit, clean, data, resave  # noqa: F401
from tests.helpers import browser
from tests.reports.test_training_report import check_page
from trainer import prepare_data
from trainer.core import cli
from trainer.data.audit import outliers, scan, source_counts, union
from trainer.data.manifest import read_all_splits
from trainer.evaluation import predictions


def plant_copies(root):
    shutil.copy(root / "Train/Real/00001.jpg", root / "Train/Real/copy.jpg")
    resave(root / "Train/Real/00001.jpg", root / "Test/Real/leak.jpg")
    shutil.copy(root / "Train/Real/00002.jpg", root / "Train/Fake/conflict.jpg")
    resave(root / "Train/Real/00006.jpg", root / "Train/Fake/forgery.jpg")  # It looks like its source, and stays.
    shutil.copy(root / "Validation/Fake/00003.jpg", root / "Train/Fake/early.jpg")


DROPPED = {"Train/Real/00001.jpg", "Train/Real/copy.jpg", "Train/Real/00002.jpg", "Train/Fake/conflict.jpg",
           "Train/Fake/early.jpg"}  # fmt: skip


@pytest.mark.slow
def test_the_suggested_list_ends_what_was_found(data, tmp_path):  # noqa: F811
    plant_copies(data)
    code, report = audit(data, tmp_path / "out", "--strict")
    assert code == 1
    by_size = sorted((len(each["paths"]), sorted(each["paths"])[0], each["equal"], each["across_splits"])
                     for each in report["clusters"]["listed"])  # fmt: skip
    assert by_size == [
        (2, "Train/Fake/conflict.jpg", True, False), (2, "Train/Fake/early.jpg", True, True),
        (2, "Train/Fake/forgery.jpg", False, False), (3, "Test/Real/leak.jpg", False, True),
    ]  # fmt: skip
    assert (report["clusters"]["count"], report["clusters"]["images"]) == (4, 9)
    path = tmp_path / "out/suggested_drop.txt"
    assert set(path.read_text().splitlines()) == DROPPED
    assert report["suggested_drop"] == len(DROPPED)
    page = (tmp_path / "out/audit.html").read_text()
    check_page(page)
    todo = re.findall(r'<li class="do"><b>To do</b> (.*?)</li>', page)
    assert [text.split()[:3] for text in todo] == [["Leave", "out", "5"]]
    code, report = audit(data, tmp_path / "again", "--strict", f"--drop={path}")
    assert (code, report["suggested_drop"], report["clusters"]["count"]) == (0, 0, 1)
    assert '<li class="do">' not in (tmp_path / "again/audit.html").read_text()


def test_parts_are_those_of_a_search_of_the_graph(monkeypatch):
    monkeypatch.setattr(union, "_WAITING", 7)
    random = np.random.default_rng(0)
    pairs = random.integers(0, 60, (40, 2))
    parts = union.Union(60)
    for block in np.split(pairs, 10):
        parts.join(block[:, 0], block[:, 1])
    expected = np.arange(60)
    for _ in range(60):
        for first, second in pairs:
            expected[[first, second]] = expected[[first, second]].min()
    assert 1 < len(set(expected.tolist())) < 60
    assert np.array_equal(np.unique(parts.parts(), return_inverse=True)[1],
                          np.unique(parts.parts()[np.unique(expected, return_index=True)[1]][
                              np.unique(expected, return_inverse=True)[1]], return_inverse=True)[1])  # fmt: skip
    assert len(set(parts.parts().tolist())) == len(set(expected.tolist()))


def test_planted_outliers_are_the_oddest(data):  # noqa: F811
    real = data / "Train/Real"
    with Image.open(real / "00001.jpg") as image:
        image.filter(ImageFilter.GaussianBlur(6)).save(real / "blurred.png")
        image.point(lambda value: value // 8).save(real / "dark.png")
        Image.fromarray(np.tile(np.asarray(image), (9, 9, 1))).save(real / "odd_size.png")
        image.resize((120, 36)).save(real / "odd_aspect.png")
        two = image.convert("1", dither=Image.Dither.NONE).convert("L")
        two.point(lambda value: 90 + value // 3).save(real / "few_colours.png")
    records = scan.scan(read_all_splits(str(data)), workers=1, quiet=True)
    first = {name: Path(records.names[found[0]]).stem for name, found in outliers.oddest(records).items()}
    assert first == {name: name for name in first}
    assert len(first) == 5


def test_sources_are_counted_by_split_and_class(data):  # noqa: F811
    for number in range(6):
        name = "big" if number < 4 else "small"
        (data / f"Train/Fake/{number:05d}.jpg").rename(data / f"Train/Fake/{name}_frame{number}.jpg")
    found = source_counts.of_splits(read_all_splits(str(data)))
    assert found["Train"]["Fake"] == {
        "sources": 2, "images": 30, "alone": 24,
        "largest": [{"source": "Train/Fake/big", "images": 4}, {"source": "Train/Fake/small", "images": 2}],
    }  # fmt: skip
    assert found["Test"]["Real"]["sources"] == 0
    for path in (data / "Train/Fake").glob("*_frame*"):
        path.rename(path.with_name(path.stem[-1] + "x.jpg"))
    assert source_counts.of_splits(read_all_splits(str(data))) is None


def write_evaluation(folder, names, p_fake, labels):
    probabilities = np.stack([p_fake, 1 - np.asarray(p_fake)], axis=1).astype(np.float32)
    answers = predictions.Predictions.of(np.asarray(labels, np.int64), probabilities, ("Fake", "Real"), 0, 0.5)
    folder.mkdir()
    (folder / "predictions.csv").write_text(predictions.to_csv(answers, names))
    about = {"class_names": ["Fake", "Real"], "positive_class": "Fake", "threshold": 0.5}
    (folder / "metrics.json").write_text(json.dumps(about))


@pytest.mark.slow
def test_labels_that_a_model_contradicts(clean, tmp_path, capsys):  # noqa: F811
    names = ["Test/Fake/00000.jpg", "Test/Fake/00001.jpg", "Test/Real/00002.jpg", "Test/Real/00003.jpg"]
    names += ["Test/Real/dropped.jpg"]
    write_evaluation(tmp_path / "eval", names, [0.02, 0.4, 0.99, 0.001, 1.0], [0, 0, 1, 1, 1])
    _, report = audit(clean, tmp_path / "out", f"--evaluation={tmp_path / 'eval'}")
    assert [(each["path"], each["label"], each["called"]) for each in report["likely_wrong_labels"]["listed"]] == [
        (names[2], "Real", "Fake"), (names[0], "Fake", "Real"),
    ]  # fmt: skip
    page = (tmp_path / "out/audit.html").read_text()
    check_page(page)
    assert "is Real, called Fake; p(Fake) 0.990" in page
    assert report["suggested_drop"] == 0
    write_evaluation(tmp_path / "other", ["Test/Real/elsewhere.jpg"], [0.99], [1])
    for folder, message in (("other", "'Test/Real/elsewhere.jpg', which data_dir lacks"), ("none", "metrics.json in")):
        words = [f"--data_dir={clean}", f"--out={tmp_path / 'no'}", f"--evaluation={tmp_path / folder}"]
        assert cli.run_command(prepare_data.audit, words) == 2
        assert message in capsys.readouterr().err


_CLICKS = """<script>addEventListener("load", () => {
  const box = name => [...document.querySelectorAll("[data-drop]")]
    .filter(e => JSON.parse(e.dataset.drop) === name).map(e => e.querySelector("input"));
  const before = document.getElementById("names").value;
  const ticked = box("Train/Real/copy.jpg").map(e => e.checked);
  box("Train/Real/copy.jpg")[0].click();
  box("Test/Real/leak.jpg")[0].click();
  const after = document.getElementById("names").value;
  const [kind, split, order] = document.querySelectorAll("#cluster-controls select");
  const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("change")); };
  const shown = () => [...document.querySelectorAll("[data-clusters] > li")].filter(e => e.getClientRects().length)
    .map(e => Number(e.dataset.size));
  const said = () => document.querySelector("#cluster-controls output").textContent;
  const all = shown();
  choose(split, "Validation");
  const ofSplit = [shown(), said()];
  choose(split, "All");
  choose(kind, "Inside a class of a split");
  choose(order, "Smallest first");
  const inside = shown();
  choose(order, "Largest first");
  const largest = shown();
  document.querySelector("#cluster-controls button").click();
  const names = [...document.querySelectorAll("[data-clusters] details[open] li")].map(e => e.textContent);
  [...document.querySelectorAll("button.thumb")].find(e => e.getClientRects().length).click();
  const file = document.querySelector("dialog a").href;
  const pre = document.createElement("pre");
  pre.id = "clicked";
  pre.textContent = JSON.stringify({ before, ticked, after, all, ofSplit, inside, largest, names, file });
  document.body.append(pre);
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
def test_check_boxes_write_the_list(data, tmp_path):  # noqa: F811
    plant_copies(data)
    hostile = [f"Train/Real/<img src=x onerror=alert(1)>&\"'{number}.jpg" for number in range(10)]
    for name in hostile:
        shutil.copy(data / "Train/Real/00007.jpg", data / name)
    shutil.copy(data / "Train/Real/00005.jpg", data / "Train/Real/twin.jpg")
    audit(data, tmp_path / "out")
    page = tmp_path / "out/audit.html"
    check_page(page.read_text())
    page.write_text(page.read_text().replace("</body>", _CLICKS + "</body>"))
    shown = browser.dom(page, tmp_path)
    clicked = json.loads(re.search(r'<pre id="clicked">(.*?)</pre>', shown)[1])
    copies = {"Train/Real/twin.jpg", "Train/Real/00007.jpg", *hostile}
    before, after = ({*clicked[name].splitlines()} for name in ("before", "after"))
    assert before - copies == DROPPED
    assert len(before & copies) == 11  # All but one of each cluster.
    assert set(clicked["ticked"]) == {True}
    assert after == before - {"Train/Real/copy.jpg"} | {"Test/Real/leak.jpg"}
    assert sorted(clicked["all"]) == [2, 2, 2, 2, 3, 11]
    assert clicked["ofSplit"] == [[2], "1 of 6 clusters shown"]
    assert (clicked["inside"], clicked["largest"]) == ([2, 11], [11, 2])
    assert sorted(clicked["names"]) == sorted(["Train/Real/00007.jpg", *hostile])
    assert Path(urllib.parse.unquote(clicked["file"].removeprefix("file://"))).parent.parent.parent == data
    seen = browser.look(page, tmp_path, width=390)
    assert (seen["errors"], seen["wide"], seen["broken"]) == ([], [], [])
