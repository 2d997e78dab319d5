"""Charts, facts and tables of the training report: true to metrics.jsonl, with and without a script."""

import datetime
import json
import re

import pytest

from tests.helpers import browser
from tests.reports.test_training_report import check_page
from trainer.core import config
from trainer.reports import charts, job_facts, step_charts
from trainer.reports import training as training_report

NOW = datetime.datetime(2026, 1, 2, 5, 0, tzinfo=datetime.UTC)


def at(seconds):
    return (datetime.datetime(2026, 1, 2, 3, 0, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)).isoformat()


def lines():
    written = []
    for start, first in ((0, 0), (1000, 4)):
        machine = {"total_steps": 12, "num_devices": 2, "device_kind": "GPU", "host": "<node>"}
        written.append({"kind": "start", "step": first, "epoch": 1 + first // 4, "time": at(start), **machine})
        for step in range(first + 1, first + 5):
            epoch = 1 + (step - 1) // 4
            written.append({
                "kind": "train", "step": step, "epoch": epoch, "loss": 1 / step, "accuracy": 0.5, "examples": 8,
                "learning_rate": 0.1, "images_per_second": 100.0 * step, "data_wait": 0.25, "memory_bytes": 2e9,
                "time": at(start + step),
            })  # fmt: skip
        written.append({
            "kind": "validation", "step": first + 4, "epoch": epoch, "val_loss": 0.5 / epoch, "val_accuracy": 0.75,
            "val_auc": [0.9, 0.8][epoch - 1], "time": at(start + 60),
        })  # fmt: skip
    return written


@pytest.fixture
def job_dir(tmp_path):
    job = tmp_path / "job"
    (job / "export" / "best" / "4" / "assets.extra").mkdir(parents=True)
    (job / "export" / "best" / "4" / "assets.extra" / "model_card.md").write_text("card")
    (job / "test").mkdir()
    (job / "test" / "report.html").write_text("page")
    settings = {name: field.default for name, field in config.settings().items()}
    changed = {"monitor": "val_auc", "epochs": 3, "learning_rate": 0.1}
    (job / "config.json").write_text(json.dumps({**settings, **changed}))
    (job / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines()))
    return job


def write(job_dir, state="running"):
    nothing = training_report.Pictures(b"", "", b"", [])
    training_report.write_page(str(job_dir), nothing, job_facts.Status(state, "because"))
    return job_dir / "report" / "index.html"


def test_charts_hold_the_values_by_step():
    drawn = {chart.title: chart for chart in step_charts.of_lines(lines())}
    assert list(drawn) == ["Loss", "Accuracy", "AUC", "Learning rate", "Speed", "Wait for data", "Memory"]
    train, validation = drawn["Loss"].series
    assert (train.x[:2], train.y[:2], train.smooth) == ([1, 2], [1.0, 0.5], True)
    assert (validation.x, validation.y, validation.form) == ([4, 8], [0.5, 0.25], "dashed")
    assert [mark.x for mark in drawn["Loss"].marks] == [4]  # The second start.
    assert drawn["Memory"].series[0].y[0] == 2.0  # GB.


def test_long_series_are_averaged_and_values_that_are_not_finite_left_out():
    series = charts.series("a", range(10_000), [float(step) for step in range(10_000)])
    assert len(series.x) == len(series.y) <= 1500
    assert series.y == pytest.approx(series.x)
    assert (series.x[0], series.x[-1]) == (3.0, 9996.5)
    assert charts.series("b", [1, 2, 3], [None, float("nan"), 4.0]).x == [3.0]


@pytest.mark.parametrize("scale", ["linear", "log", "percent"])
@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5], [0.0, 1e-5, 1e6], [-1.0, 0.0]])
def test_the_static_picture_stays_inside_its_frame(scale, values):
    series = charts.series("<train>", range(len(values)), values)
    picture = str(charts.Chart("Title", "", "step", "y", [series], [charts.Mark(0, "restart")], scale).picture)
    assert "&lt;train&gt;" in picture
    numbers = [float(number) for points in re.findall(r'points="([^"]*)"', picture)
               for number in re.split("[ ,]", points) if number]  # fmt: skip
    assert numbers
    assert all(0 <= number <= 420 for number in numbers)


def test_axes_have_round_names():
    def names(scale, low, high):
        series = charts.series("a", [0, 1], [low, high])
        return re.findall(
            r'text-anchor="end">([^<]*)', str(charts.Chart("T", "", "step", "y", [series], (), scale).picture)
        )

    assert names("linear", 2000.0, 2100.0) == ["2,000", "2,050", "2,100"]
    assert names("log", 3e-5, 3e-4) == ["5e-05", "0.0001", "0.0002"]
    assert names("percent", 0.6, 1.0) == ["60%", "70%", "80%", "90%", "100%"]


def test_durations_add_up_over_starts():
    assert job_facts.seconds(lines(), None) == 60 + 60
    assert job_facts.seconds(lines(), NOW) == 60 + 2 * 3600 - 1000
    assert job_facts.seconds([{"kind": "start", "time": at(0)}], None) is None  # Lines of an older version.
    assert [job_facts.span(value) for value in (None, 59.6, 125, 7260)] == ["", "1 min 0 s", "2 min 5 s", "2 h 1 min"]


def test_the_page_tells_state_changed_settings_epochs_and_links(job_dir):
    path = write(job_dir)
    text = path.read_text()
    page = check_page(text)
    for words in ('data-state="running"', "<span>Starts</span><b>2</b>", "&lt;node&gt;", "2 x GPU", "<b>1</b>"):
        assert words in text
    changed = text.split("differ from the defaults")[1].split("</table>")[0]
    assert re.findall(r'row"><code>(\w+)', changed) == ["learning_rate", "epochs", "monitor"]
    assert "1 (best)" in text.split('id="epochs"')[1]
    assert {(path.parent / link).resolve().relative_to(job_dir).as_posix() for link in page.links} == {
        "export/best/4", "export/best/4/assets.extra/model_card.md", "test/report.html", "metrics.jsonl", "config.json",
    }  # fmt: skip
    assert all((path.parent / link).exists() for link in page.links)
    assert "../result.json" in check_page(write(job_dir, "finished").read_text()).links  # It follows at once.
    assert "Stopped: because" in write(job_dir, "stopped").read_text()
    assert len(text) < 300_000


def test_without_a_script_each_chart_is_a_picture(job_dir):
    without = re.sub(r"<script.*?</script>", "", write(job_dir).read_text(), flags=re.DOTALL)
    assert without.count("<svg viewBox") == 7
    assert without.count('<figure class="chart">') == 7
    assert "u-over" not in without.split("<body>")[1]


def test_what_a_page_shows_cannot_end_its_script(job_dir):
    lines = [{**json.loads(line), "host": "</script>"} for line in (job_dir / "metrics.jsonl").read_text().splitlines()]
    (job_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    check_page(write(job_dir).read_text())
    assert "Permission is hereby granted" in charts.script()  # The licence goes with the library.


# What a reader does, one after another; the texts that follow land in the element "probe".
_READER = """<script>addEventListener("load", () => {
  const out = [], say = (...words) => out.push(words.join(" ")), figure = document.querySelector("figure.chart");
  const plot = figure.querySelector(".plot"), text = () => figure.querySelector("output").textContent.trim();
  const press = key => plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const legend = figure.querySelectorAll(".legend button"), table = document.querySelector("table.sortable");
  const sort = n => table.querySelectorAll("th button")[n].click();
  const column = n => [...table.tBodies[0].rows].map(row => row.cells[n].dataset.value);
  const count = selector => document.querySelectorAll(selector).length;
  const tell = () => {
    document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: out.join("\\n") }));
  };
  const steps = [
    () => say("charts", count(".plot canvas"), count("svg.static")),
    () => press("End"), () => say("end", text()),
    () => legend[1].click(), () => press("ArrowLeft"),
    () => say("hidden", legend[1].getAttribute("aria-pressed"), text()),
    () => sort(5), () => say("auc", column(5)), () => sort(5), () => say("descending", column(5)),
    () => sort(3), () => say("loss", column(3)), tell,
  ];
  const next = () => { if (steps.length) { steps.shift()(); setTimeout(next, 60); } };
  next();
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")
def test_a_reader_uses_charts_and_table_by_keyboard(job_dir, tmp_path):
    path = write(job_dir)
    read = tmp_path / "read.html"
    read.write_text(path.read_text().replace("</body>", _READER + "</body>"))
    seen = re.search(r'<pre id="probe">(.*?)</pre>', browser.dom(read, tmp_path), re.DOTALL)[1].splitlines()
    said = dict(line.split(" ", 1) for line in seen)
    assert said["charts"] == "7 0"  # Every picture became a chart.
    assert said["end"].startswith("step 8: train 0.125, train, smoothed 0.")
    assert said["end"].endswith("validation 0.25")
    assert said["hidden"].startswith("false step 7: train 0.1429")
    assert "validation" not in said["hidden"]
    assert (said["auc"], said["descending"], said["loss"]) == ("0.8,0.9", "0.9,0.8", "0.25,0.5")
    for width, dark in ((390, True), (1200, False)):
        look = browser.look(path, tmp_path, width=width, dark=dark)
        assert (look["width"], look["page"], look["wide"], look["errors"], look["loaded"]) == (width, width, [], [], [])
