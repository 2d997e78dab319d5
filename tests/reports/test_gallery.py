"""The gallery of a page: which images fit, links to files, and what a reader can do with it by pointer and keyboard."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import browser
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate, predict
from trainer.core import cli
from trainer.core.storage import files
from trainer.reports import gallery_items
from trainer.reports.gallery_items import Item
from trainer.reports.prediction import thumbnails

HOSTILE = ['a"onerror="alert(1)', "<script>document.title='taken'<", "line\nfeed", "it's &lt;b&gt;", "\u202egnp.x"]


def item(number, **facts):
    return Item(f"Test/Fake/{number}.png", "", 0, 0.5, 0.5, 0, **facts)


def test_links_to_files(tmp_path):
    page = f"{tmp_path}/out/report.html"
    assert gallery_items.link_to(f"{tmp_path}/data/a b.png", page) == "../data/a%20b.png"
    assert gallery_items.link_to(f"{tmp_path}/out/javascript:x", page) == "javascript%3Ax"  # No scheme.
    assert gallery_items.link_to(f"{tmp_path}/out/\udce9\"'.png", page) == "%E9%22%27.png"
    assert gallery_items.link_to("gs://b/x y.png", page) == "https://storage.cloud.google.com/b/x%20y.png"
    assert gallery_items.link_to("s3://b/x.png", page) == ""
    assert gallery_items.link_to("/data/x.png", "gs://b/report.html") == ""
    (tmp_path / "0.tar").touch()
    assert gallery_items.link_to(f"{tmp_path}/0.tar/a.png", page) == ""  # A member has no address.


def test_a_page_stays_small():
    items = [item(number) for number in range(1000)]
    number = gallery_items.fitting(items, 20_000)
    entries = gallery_items.as_json(items[:number])["items"]
    assert 19_900 < sum(len(json.dumps(entry)) for entry in entries) <= 20_000
    assert gallery_items.fitting(items) == 1000


def test_columns_that_help_to_filter():
    items = [item(n, groups=[f"m{n % 2}", f"video{n}", "same"]) for n in range(100)]
    data = gallery_items.as_json(items, ["method", "video", "split"])
    assert data["groups"] == [{"name": "method", "values": ["m0", "m1"]}]
    assert [entry["g"] for entry in data["items"][:2]] == [[0], [1]]


@pytest.mark.parametrize("path", ["a.png", "\udce9\udcff.png", "\\x41", "\\xe9 \udce9", "a\\b"])
def test_a_printable_path_comes_back(path):
    assert files.unprintable(files.printable(path)) == path


def test_thumbnails_of_faces_and_of_files_that_are_gone(tmp_path):
    pixels = np.full([100, 200, 3], (40, 40, 200), np.uint8)
    pixels[20:60, 100:140] = (250, 10, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = {"x0": 100, "y0": 20, "x1": 140, "y1": 60}
    whole = {"path": f"{tmp_path}/a.png", "label": "Fake", "p_fake": 0.5}
    rows = [whole, {**whole, **box}, {**whole, "path": f"{tmp_path}/gone.png"}]
    first, face, gone = thumbnails.load(rows, of_videos=False, max_pixels=10**6)
    assert gone is None
    sizes = [Image.open(io.BytesIO(base64.b64decode(each.uri.split(",")[1]))) for each in (first, face)]
    assert [each.size for each in sizes] == [(192, 96), (60, 60)]  # A quarter of the box around it.
    assert np.asarray(sizes[1], np.float32)[30, 30] == pytest.approx([250, 10, 10], abs=8)


def test_the_thumbnail_of_a_video_is_its_first_frame(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = f"{tmp_path}/clip.avi"
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 64))
    for red in (240, 20, 20):
        writer.write(np.full([64, 64, 3], (0, 0, red), np.uint8))
    writer.release()
    rows = [{"path": path, "label": "Fake", "p_fake": 0.5}, {"path": "gs://b/clip.avi", "label": "Fake", "p_fake": 0.5}]
    first, remote = thumbnails.load(rows, of_videos=True, max_pixels=10**6)
    assert remote is None  # It would be downloaded whole.
    red = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.uri.split(",")[1]))))[..., 0]
    assert red.mean() == pytest.approx(240, abs=8)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of an evaluation and of a prediction of the same images, some with names that try to break out."""
    folder = tmp_path_factory.mktemp("gallery")
    write_export(folder / "best" / "1", ["Fake", "Real"], explains=True)
    rng = np.random.default_rng(0)
    rows = []
    for kind in ("Fake", "Real"):
        for number in range(40):
            name, red = f"{number:02d}", int(rng.integers(10, 240))
            if number < len(HOSTILE):  # The most wrong ones.
                name, red = HOSTILE[number], number if kind == "Fake" else 250 - number
            write_image(folder / "data" / "Test" / kind / f"{name}.png", (red, 40, 60))
            rows.append(
                f'"Test/{kind}/{name.replace(chr(34), chr(34) * 2)}.png",{"<i>swap" if number % 3 else "draw"}\n'
            )
    (folder / "g.csv").write_text("path,method\n" + "".join(rows))
    model = f"--model_dir={folder}/best"
    words = [model, f"--data_dir={folder}/data", f"--out={folder}/out", f"--groups={folder}/g.csv", "--bootstrap=0"]
    assert cli.run_command(evaluate.main, words) == 0
    (folder / "data" / "Test" / "Fake" / "<b>bad.png").write_bytes(b"no image")
    (folder / "data" / "notes.txt").write_text("x")
    words = [model, f"{folder}/data", f"--out={folder}/scores.csv", f"--report={folder}/out/scores.html"]
    assert cli.run_command(predict.main, words) == 1
    return folder


def seen(page, scratch, script):
    """Return what a script saw in a page, line by line."""
    probe = f"""<script>addEventListener("load", () => {{
      const out = [], $ = query => document.querySelector(query), all = query => [...document.querySelectorAll(query)];
      const press = key => $("dialog").dispatchEvent(new KeyboardEvent("keydown", {{ key, cancelable: true }}));
      const choose = (box, value) => {{ box.value = value; box.dispatchEvent(new Event("change")); }};
      {script}
      const textContent = JSON.stringify(out);
      document.body.append(Object.assign(document.createElement("pre"), {{ id: "probe", textContent }}));
    }});</script>"""
    copy = page.with_name(f"probe_{page.name}")
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    return json.loads(re.search(r'<pre id="probe">(.*?)</pre>', browser.dom(copy, scratch), re.DOTALL)[1])


needs_chromium = pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")


@pytest.mark.slow
@needs_chromium
def test_the_gallery_of_an_evaluation(pages, tmp_path):
    script = """
      const captions = () => all("#errors .thumb").map(thumb => thumb.closest("li").textContent);
      const [kinds, method, sorting] = all("#errors select");
      out.push(captions());
      choose(kinds, "0");
      out.push(captions());
      choose(method, "1");
      out.push(captions());
      choose(method, "");
      choose(sorting, "3");
      out.push(all("#errors .thumb").map(thumb => thumb.closest("li").querySelector("a").textContent));
      out.push(all("#errors output")[0].textContent);
      all("#errors .thumb")[1].focus();
      all("#errors .thumb")[1].click();
      out.push($("dialog").matches(":modal"), $("dialog").contains(document.activeElement));
      press("ArrowRight");
      const picture = $("dialog img").src;
      press("h");
      out.push($("dialog img").src !== picture, $("dialog p").textContent, $("dialog a").textContent);
      press("Home");
      out.push($("dialog p").textContent);
      press("ArrowRight");
      $("dialog").close();
      const scripts = all("script:not([type])").filter(script => script.textContent.includes("taken'"));
      out.push($("dialog").open, document.title, scripts.length);
      $("dialog").dispatchEvent(new Event("close"));
      out.push(all("#errors .thumb").indexOf(document.activeElement));
      const head = $("#groups th button");
      head.click();
      const column = () => all("#groups tbody th").map(cell => cell.textContent);
      out.push(column(), head.closest("th").getAttribute("aria-sort"));
      head.click();
      out.push(column(), head.closest("th").getAttribute("aria-sort"));
      all("#samples .thumb")[1].click();
      const samples = all("dialog").find(dialog => dialog.open), file = samples.querySelector("a");
      out.push(samples.querySelector("p").textContent, file.textContent, new URL(file.href).pathname);"""
    (
        wrong, missed, of_group, names, count, is_modal, is_inside, has_map, title, link, first, is_open, page_title,
        scripts, back, rising, up, falling, down, sample, sample_name, sample_file,
    ) = seen(pages / "out" / "report.html", tmp_path, script)  # fmt: skip
    rows = [line.rsplit(",", 2) for line in (pages / "out" / "predictions.csv").read_text().splitlines()[1:]]
    mistakes = sum((row[1] == "Fake") != (float(row[2]) >= 0.5) for row in rows if len(row) == 3)
    assert len(wrong) == min(mistakes, 48)
    assert all("is Fake, called Real" in caption for caption in missed)
    assert 0 < len(of_group) < len(missed) < len(wrong)
    assert names == sorted(names)
    assert count.startswith(f"{len(missed)} of the ")
    assert (is_modal, is_inside, has_map) == (True, True, True)
    assert (title.split("(")[1], link) == (f"3 of {len(missed)})", names[2])
    assert "map: what spoke for Real" in title
    assert f"(1 of {len(missed)})" in first
    assert (is_open, page_title, back) == (False, "Fake detector on Test", 1)
    assert scripts == 1  # The probe itself; names are text.
    assert (rising, up) == (["<i>swap", "draw"], "ascending")
    assert "(2 of 12)" in sample
    assert sample_file.endswith(f"/data/{sample_name}")
    assert (falling, down) == (["draw", "<i>swap"], "descending")


@pytest.mark.slow
@needs_chromium
def test_the_page_of_a_prediction(pages, tmp_path):
    script = """
      out.push(all(".thumb").length, $("#threshold-controls output").textContent);
      const called = () => all(".gallery b").filter(b => b.textContent.startsWith("called Fake")).length;
      out.push(called());
      const slider = $("#threshold-controls input");
      slider.value = slider.max;
      slider.dispatchEvent(new Event("input"));
      out.push(called(), $('svg[data-mark="scores"] .threshold').getAttribute("x1") > 100);
      $("#threshold-controls button").click();
      out.push(called());
      out.push(all("#failed tbody tr").map(row => row.textContent), $("#summary").textContent);"""
    page = pages / "out" / "scores.html"
    count, text, called, none, is_moved, again, failed, summary = seen(page, tmp_path, script)
    assert count == 48
    assert re.fullmatch(r"threshold 0\.500 \(the one of this report\): \d+ of 80 called Fake, [\d.]+%", text)
    assert (none, is_moved, again) == (0, True, called)
    assert called > 5
    assert len(failed) == 1
    assert "<b>bad.png" in failed[0]
    assert "Unknown image file format" in failed[0]
    assert "1 of other kinds" in summary
    for name, width, dark in (("report.html", 1200, False), ("scores.html", 390, True)):
        look = browser.look(pages / "out" / name, tmp_path, width=width, dark=dark)
        assert (look["page"], look["wide"], look["errors"], look["broken"]) == (width, [], [], []), name
        assert look["loaded"] == []


@pytest.mark.slow
def test_pages_without_a_script(pages):
    for name, pictures in (("report.html", "twins"), ("scores.html", "gallery")):
        text = (pages / "out" / name).read_text()
        static = text[: text.index('<script type="application/json"')]
        assert static.count("<li data-item") >= 30
        assert f'<ul class="{pictures}">' in static
        assert "<script" not in static
        assert "alert(1)" in static  # Names are there, but as text.
        assert '"onerror="' not in static
        assert len(re.sub(r"data:image/[^\"]*", "", text)) < 1_000_000
