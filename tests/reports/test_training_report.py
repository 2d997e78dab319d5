"""Pages and plots: whole, self-contained, and true to metrics.jsonl."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import browser
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate
from trainer.core import cli
from trainer.evaluation import training_curves
from trainer.reports import training as training_report


class Page(html.parser.HTMLParser):
    """Checks that tags close in order, and gathers what a page loads and links."""

    VOID = frozenset({"meta", "img", "br", "use", "path", "rect", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.links, self.images = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "a" and not values["href"].startswith("#"):  # A link loads nothing by itself.
            self.links.append(values.pop("href"))
        self.loads += [values[name] for name in ("src", "xlink:href", "href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.images += [values] if tag == "img" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "xlink:href", "href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text):
    page = Page(text)
    assert all(load.startswith(("#", "data:")) for load in page.loads)
    assert "url(http" not in text
    assert all(load[1:] in page.ids for load in page.loads if load.startswith("#"))
    assert all(image["alt"] for image in page.images)
    assert "prefers-color-scheme: dark" in text
    return page


def write_job(job_dir, validations=3, restarts=False):
    job_dir.mkdir(parents=True, exist_ok=True)
    (job_dir / "config.json").write_text(json.dumps({"monitor": "val_accuracy", "epochs": 3, "data_dir": "<D>"}))
    lines = [{"kind": "start", "step": 0, "epoch": 1, "total_steps": 6}]
    for epoch in range(1, validations + 1):
        common = {"kind": "train", "epoch": epoch, "learning_rate": 0.1**epoch, "images_per_second": 9.0}
        lines.append({**common, "step": 2 * epoch - 1, "loss": 1.0, "accuracy": 0.5, "examples": 30})
        lines.append({**common, "step": 2 * epoch, "loss": 0.2, "accuracy": 0.9, "examples": 10})
        lines.append({
            "kind": "validation", "step": 2 * epoch, "epoch": epoch, "val_loss": 0.5 / epoch,
            "val_accuracy": [0.7, 0.9, 0.9][epoch - 1], "val_auc": None, "learning_rate": 0.1,
        })  # fmt: skip
    if restarts:
        lines[4:4] = [{"kind": "start", "step": 3, "epoch": 2, "total_steps": 6}] * 2
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (job_dir / "metrics.jsonl").write_text(text + '{"kind": "train", "st')  # A kill cut the last line.
    return job_dir


def test_curves_weigh_examples_and_find_the_best_epoch(tmp_path):
    read = training_curves.read_curves(str(write_job(tmp_path)))
    assert read.train["loss"].epochs == [1, 2, 3]
    assert read.train["loss"].values == pytest.approx([(30 * 1.0 + 10 * 0.2) / 40] * 3)
    assert read.train["accuracy"].values == pytest.approx([0.6] * 3)
    assert read.learning_rate.values == pytest.approx([0.1, 0.01, 0.001])
    assert read.validation["val_auc"].values == []
    assert (read.monitor, read.best_epoch) == ("val_accuracy", 2)  # The first of equals.
    assert read.restarts == []
    assert training_curves.read_curves(str(tmp_path / "none")) is None


def test_restarts_are_found_within_their_epoch(tmp_path):
    read = training_curves.read_curves(str(write_job(tmp_path, restarts=True)))
    assert read.restarts == [1.5]  # Twice at step 3, with two steps an epoch.
    assert read.train["loss"].epochs == [1, 2, 3]


@pytest.mark.parametrize("validations", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_training_report(tmp_path, validations):
    job_dir = write_job(tmp_path / "job", validations)
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 255, [10, 16, 16, 3], dtype=np.uint8)
    counts = {"Train": {"Fake": 1200, "Real": 1100}, "Validation": {"Fake": 30, "Real": 0}}
    training_report.write_training_report(str(job_dir), samples, samples[:, :, ::-1], ["Fake", "Real"] * 5, counts)
    text = (job_dir / "report" / "index.html").read_text()
    check_page(text)
    assert "&lt;D&gt;" in text
    assert "1,200" in text
    assert ("epoch 2, with validation loss 0.2500, accuracy 0.9000." in text) == (validations == 3)
    names = {"index.html", "samples.png", "classes.png"} | ({"curves.png"} if validations else set())
    assert {path.name for path in (job_dir / "report").iterdir()} == names
    for name in names - {"index.html"}:
        image = Image.open(job_dir / "report" / name)
        assert image.width > 500
        assert len(image.convert("L").getcolors()) > 20  # Not blank.


@pytest.mark.slow
def test_evaluation_report_with_training_curves(tmp_path, capsys):
    job_dir = write_job(tmp_path / "job", restarts=True)
    write_export(job_dir / "export" / "best" / "120", ["Fake", "Real"])
    (job_dir / "result.json").write_text('["of something else"]')
    data = tmp_path / "data"
    for name, reds in {"Fake": [250, 90, 180]}.items():
        for index, red in enumerate(reds):
            write_image(data / "Test" / name / f"{index}.png", (red, 40, 60))
    write_image(data / "Test" / "Real" / "<b>.png", (220, 40, 60))
    write_image(data / "Test" / "Real" / "1.png", (20, 40, 60))
    model = f"--model_dir={job_dir}/export/best"
    words = [model, f"--data_dir={data}", f"--out={tmp_path}/out", "--bootstrap=50"]
    assert cli.run_command(evaluate.main, words) == 0
    capsys.readouterr()
    text = (tmp_path / "out" / "report.html").read_text()
    page = check_page(text)
    for words in ("Confusion matrix", "Precision and recall", "Worst mistakes", "Learning rate", "best epoch: 2",
                  ">restart<", ">DET<", ">Calibration<", "has no temperature"):  # fmt: skip
        assert words in text
    assert "There are no heat maps of where the model looked: it was written by an older version." in text
    for said in ("--model_dir=", "--bootstrap=50", "scikit-learn ", "Test: 3 Fake, 2 Real"):
        assert said in text
    alts = [image["alt"] for image in page.images]
    assert alts[:2] == ["Test/Real/<b>.png", "Test/Fake/1.png"]  # Called wrong: 220 / 255, then 90 / 255.
    thumbnail = re.search(r'src="data:image/jpeg;base64,([^"]+)"', text)
    red = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail[1]))))[..., 0]
    assert red.mean() == pytest.approx(220, abs=3)


@pytest.mark.slow
def test_the_worst_mistakes_show_where_the_model_looked(tmp_path, capsys):
    write_export(tmp_path / "best" / "1", ["Fake", "Real"], explains=True)
    data = tmp_path / "data"
    for name, reds in {"Fake": [250, 90], "Real": [20, 220]}.items():
        for index, red in enumerate(reds):
            write_image(data / "Test" / name / f"{index}.png", (red, 40, 60))
    # Half of it red: the map of this export is red, so the left half must glow.
    half = np.full([16, 16, 3], 10, np.uint8)
    half[:, :7, 0] = 250
    Image.fromarray(half).save(data / "Test" / "Fake" / "half.png")
    words = [f"--model_dir={tmp_path}/best", f"--data_dir={data}", f"--out={tmp_path}/out", "--bootstrap=0"]
    assert cli.run_command(evaluate.main, words) == 0
    capsys.readouterr()
    page = check_page((tmp_path / "out" / "report.html").read_text())
    worst = ["Test/Real/1.png", "Test/Fake/1.png", "Test/Fake/half.png"]
    called = ["Fake", "Real", "Real"]
    expected = [
        alt
        for path, label in zip(worst, called, strict=True)
        for alt in (path, f"Heat map of {path}: what spoke for {label}")
    ]
    assert [image["alt"] for image in page.images][:6] == expected
    before, under = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(page.images[number]["src"].split(",")[1]))), np.float32)
        for number in (4, 5)
    )
    change = np.abs(under - before).mean(axis=(0, 2))
    assert change[:50].mean() > 5 * change[90:].mean()


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")
def test_pages_in_a_browser(tmp_path, capsys):
    job_dir = write_job(tmp_path / "job", restarts=True)
    write_export(job_dir / "export" / "best" / "120", ["Fake", "Real"], explains=True)
    data, long = tmp_path / "data", "a-very-long-name-without-any-place-to-break-" * 3
    rng = np.random.default_rng(0)
    for name, shift in (("Fake", 60), ("Real", 0)):
        for index in range(8):
            write_image(data / "Test" / name / f"{long}{index}.png", (int(rng.integers(40, 180)) + shift, 40, 60))
    paths = [f"Test/{name}/{long}{index}.png" for name in ("Fake", "Real") for index in range(8)]
    (tmp_path / "g.csv").write_text("path,camera\n" + "".join(f"{path},{len(path)}\n" for path in paths))
    words = [f"--model_dir={job_dir}/export/best", f"--data_dir={data}", "--bootstrap=20", f"--groups={tmp_path}/g.csv"]
    for out, more in (("all", ["--robustness"]), ("other", ["--threshold=0.4"])):
        assert cli.run_command(evaluate.main, [*words, *more, f"--out={tmp_path}/{out}"]) == 0
    ones = f"--compare={tmp_path}/all,{tmp_path}/other"
    assert cli.run_command(evaluate.main, [ones, f"--out={tmp_path}/both", "--bootstrap=20"]) == 0
    no_images = np.zeros([0, 8, 8, 3], np.uint8)
    counts = {"Train": {"Fake": 3, "Real": 4}}
    training_report.write_training_report(str(job_dir), no_images, no_images, [], counts)
    capsys.readouterr()
    main, both = tmp_path / "all" / "report.html", tmp_path / "both" / "compare.html"
    training = job_dir / "report" / "index.html"
    for page, width, dark in ((main, 360, True), (main, 1200, False), (both, 360, False), (training, 360, False)):
        seen = browser.look(page, tmp_path, width=width, dark=dark)
        assert (seen["width"], seen["page"], seen["wide"]) == (width, width, []), page  # Nothing is cut off.
        assert (seen["errors"], seen["loaded"], seen["broken"]) == ([], [], []), page
        assert seen["skip"], page  # The first press of Tab shows the way past the head.
        red = int(re.match(r"rgb\((\d+)", seen["paper"])[1])
        assert (red < 60) == dark, page
