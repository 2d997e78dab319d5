"""The linked drawings of a sweep's trials: true to the records, and trials chosen by keyboard and pointer."""

import dataclasses
import json
import re

import pytest

from tests.helpers import browser
from tests.reports.test_training_report import check_page
from tests.sweep.test_sweep import SPACE, request
from trainer.sweep import records, report, trial_figures
from trainer.sweep.records import Record

HOSTILE = "<img src=x onerror=alert(1)>&\"'"
HIDING = "\u202e"  # Text after it would run from the right to the left.


def of_rates(rates):
    """Return one trial for each learning rate; those of even number use plateau."""
    known = []
    for number, rate in enumerate(rates):
        settings = {"learning_rate": rate, "lr_schedule": ("plateau", "constant")[number % 2], "batch_size": 8 + number}
        settings |= {"plateau_factor": 0.2} if number % 2 == 0 else {}
        run = {"seconds": 10.0, "worker": f"w{number % 2}", "ended": f"2026-01-01T00:{number:02d}:30+00:00"}
        known.append(Record(f"{number:04d}", f"{number:04d}", settings, "done", score=0.5 + number / 100, **run))
    return known


def ranked(known):
    return records.by_score(known, maximizes=True)


def points(picture, trial):
    line = re.search(rf'points="([^"]*)" data-trial="{trial}"', picture)[1]
    return [tuple(map(float, pair.split(","))) for pair in line.split()]


@pytest.mark.parametrize(
    ("trials", "titles"),
    [
        (2, ["best trial", "the others"]), (3, ["best trial", "the others"]), (7, ["best trial", "the others"]),
        (8, ["best trial", "best quarter", "the others"]), (20, ["best trial", "best quarter", "the others"]),
    ],
)  # fmt: skip
def test_the_legend_names_what_is_drawn(trials, titles):
    picture = str(trial_figures.parallel(SPACE, ranked(of_rates([1e-3] * trials)), "auc"))
    assert re.findall(r">(best trial|best quarter|the others)</text>", picture) == titles
    assert picture.count('<polyline class="quarter"') == (trials // 4 if trials >= 8 else 0)  # Its sample, too.


def test_places_follow_the_values():
    known = of_rates([1e-4, 1e-3, 1e-2])
    picture = str(trial_figures.parallel(SPACE, ranked(known), "auc"))
    bottom, middle, top = (points(picture, f"000{number}")[0][1] for number in range(3))
    assert bottom > middle > top
    assert middle == pytest.approx((bottom + top) / 2)  # By the logarithm.
    used, unused = (points(picture, f"000{number}")[2][1] for number in range(2))
    assert unused > used + 10  # Below all values of plateau_factor, which trial 1 does not use.
    assert picture.count(">not used</text>") == 1
    same = trial_figures.Scale.of("a", [3.0, 3.0])
    assert same.place(3.0) == pytest.approx(0.5)


def test_slices_have_log_axes_where_the_space_has():
    known = of_rates([1e-4, 1e-3, 1e-2])
    drawn = {one.name: str(one.picture) for one in trial_figures.slices(SPACE, ranked(known), "auc")}
    assert [name for name, picture in drawn.items() if "(log scale)" in picture] == ["learning_rate"]
    places = {trial: float(x) for x, trial in re.findall(r'cx="([\d.]+)".*?data-trial="(\d+)"', drawn["learning_rate"])}
    assert places["0001"] == pytest.approx((places["0000"] + places["0002"]) / 2, abs=0.1)
    assert drawn["plateau_factor"].count("<circle") == 2
    assert list(drawn) == ["learning_rate", "lr_schedule", "plateau_factor", "batch_size"]


def test_the_timeline_has_a_lane_for_each_worker_and_needs_times():
    known = of_rates([1e-3] * 4)
    known[3] = dataclasses.replace(known[3], status=records.FAILED, score=None)
    picture = str(trial_figures.timeline(known, "0002"))
    tops = set(re.findall(r'y="([\d.]+)" width="[\d.]+" height="22"', picture))
    assert len(tops) == 2
    assert re.findall(r'height="14"/><text[^>]*>([^<]*)', picture) == ["best trial", "done", "failed"]
    starts = [float(x) for x in re.findall(r'x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="22"', picture)]
    assert starts[1] - starts[0] == pytest.approx(starts[2] - starts[1], abs=0.2)  # A minute each.
    assert trial_figures.timeline([dataclasses.replace(one, ended="") for one in known], "") is None


def test_drawings_of_a_thousand_trials_stay_small():
    known = [dataclasses.replace(one, trial=f"{n:04d}") for n, one in enumerate(of_rates([1e-4, 1e-3] * 25) * 20)]
    best = ranked(known)
    drawn = [str(one.picture) for one in trial_figures.slices(SPACE, best, "auc")]
    drawn += [str(trial_figures.parallel(SPACE, best, "auc")), str(trial_figures.timeline(known, best[0].trial))]
    assert sum(map(len, drawn)) < 800_000
    assert drawn[0].count("<circle") == drawn[-2].count("data-trial") == drawn[-1].count("data-trial") == 300


@pytest.fixture
def page(tmp_path):
    known = of_rates([10 ** (-4 + number / 4) for number in range(8)])
    known[1] = dataclasses.replace(known[1], worker=HOSTILE + HIDING, reason=HOSTILE, status=records.PRUNED)
    known[2] = dataclasses.replace(known[2], settings={**known[2].settings, "lr_schedule": "plateau"}, score=None,
                                   status=records.FAILED, reason=HOSTILE)  # fmt: skip
    (tmp_path / "trials/0007/report").mkdir(parents=True)
    (tmp_path / "trials/0007/report/index.html").write_text("report")
    report.write(request(tmp_path, max_trials=8), known)
    return tmp_path / "sweep.html"


def test_the_page_links_trials_and_keeps_hostile_words_as_words(page):
    text = page.read_text()
    seen = check_page(text)
    assert "<img" not in text
    assert HIDING not in text
    assert len(text) < 2_000_000
    assert {link for link in seen.links if "report" in link} == {"trials/0007/report/index.html"}
    assert {f"trials/000{number}/" for number in range(8)} < set(seen.links)


_ACTIONS = """<script>addEventListener("load", () => {
  const axis = name => [...document.querySelectorAll("g.axis")].find(e => JSON.parse(e.dataset.axis).name === name);
  const press = (name, key, shiftKey) => axis(name).dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey }));
  const shown = () => [...document.querySelectorAll("polyline[data-trial]:not(.out)")].map(e => e.dataset.trial).sort();
  const said = () => document.querySelector("#trial-controls output").textContent;
  const all = shown();
  press("lr_schedule", "ArrowUp");  // From below: the lowest quarter, plateau.
  const plateau = shown(), words = said();
  const rows = [...document.querySelectorAll("tr[data-trial]:not(.out)")].map(e => e.dataset.trial).sort();
  press("lr_schedule", "Escape");
  const grip = axis("learning_rate").querySelector(".grip"), box = grip.getBoundingClientRect();
  grip.setPointerCapture = () => {};  // There is no real pointer here.
  const point = (type, share) => grip.dispatchEvent(new PointerEvent(type, {
    bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + share * box.height }));
  point("pointerdown", 0);
  point("pointermove", 0.5);
  point("pointerup", 0.5);
  const upper = shown();
  document.querySelector("#trial-controls button").click();
  const again = shown();
  document.querySelector('tr[data-trial="0003"] a').focus();
  const lit = [...document.querySelectorAll(".lit")].map(e => e.dataset.trial), told = said();
  const pre = document.createElement("pre");
  pre.id = "did";
  pre.textContent = JSON.stringify({ all, plateau, rows, words, upper, again, lit, told });
  document.body.append(pre);
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")
def test_axes_choose_trials_in_all_drawings(page, tmp_path):
    page.write_text(page.read_text().replace("</body>", _ACTIONS + "</body>"))
    did = json.loads(re.search(r'<pre id="did">(.*?)</pre>', browser.dom(page, tmp_path))[1])
    assert did["all"] == did["again"] == ["0000", "0001", "0003", "0004", "0005", "0006", "0007"]
    assert did["plateau"] == did["rows"] == ["0000", "0004", "0006"]
    assert did["words"] == "3 of 7 trials: lr_schedule plateau"
    assert did["upper"] == ["0004", "0005", "0006", "0007"]
    assert set(did["lit"]) == {"0003"}
    assert len(did["lit"]) == 6  # Line, slices of the three settings that it uses, bar, row.
    assert did["told"].startswith("trial 0003 (done): 0.53; learning_rate ")
