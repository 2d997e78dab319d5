"""Evaluations side by side: paired differences against scipy's bootstrap, and what cannot be compared."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from tests.reports.test_training_report import check_page
from trainer import evaluate
from trainer.evaluation import metrics, predictions
from trainer.evaluation.predictions import Predictions

TWO = ("Fake", "Real")


def write_evaluation(folder, paths, labels, probabilities, names=TWO, drawn=None, **details):
    """Write what trainer.evaluate would, of answers ``[N, C]``."""
    scored = Predictions.of(np.array(labels), np.asarray(probabilities, np.float32), names, names.index("Fake"), 0.5)
    drawn = drawn or {"unit": "images", "count": len(paths), "rule": "each image by itself"}
    about = {"split": "Test", "data_dir": "data", "class_names": list(names), "positive_class": "Fake", "drawn": drawn,
             "model": {"path": f"{folder.name}/1", "step": 3, "epoch": 1}}  # fmt: skip
    folder.mkdir(parents=True)
    figures = metrics.measure(scored, resamples=0, seed=0)
    (folder / "metrics.json").write_text(json.dumps({**about, **figures, **details}))
    (folder / "predictions.csv").write_text(predictions.to_csv(scored, paths))


def of_fake(p_fake):
    p_fake = np.asarray(p_fake)
    return np.stack([p_fake, 1 - p_fake], axis=1)


def made(seed, count=120, skill=1.0):
    """Return labels and p_fake of a detector with some skill; noise of seed 0 is shared by all."""
    labels = np.arange(count) % 2
    shared, own = (np.random.default_rng(number).normal(size=count) for number in (0, seed))
    return labels, 1 / (1 + np.exp(-(skill * (1 - 2 * labels) + shared + 0.3 * own)))


PATHS = [f"Test/{TWO[number % 2]}/{number}.png" for number in range(120)]


def compare(capsys, *words):
    return answer(capsys, evaluate.main, *words)


def test_paired_differences(tmp_path, capsys):
    labels, weak = made(1, skill=0.3)
    _, strong = made(2, skill=2.0)
    write_evaluation(tmp_path / "weak" / "e", PATHS, labels, of_fake(weak))
    order = np.random.default_rng(3).permutation(120)[:100]  # Another order, and twenty less.
    write_evaluation(tmp_path / "strong" / "e", [PATHS[i] for i in order], labels[order], of_fake(strong[order]))
    code, printed, err = compare(
        capsys, f"--compare={tmp_path}/weak/e,{tmp_path}/strong/e/", f"--out={tmp_path}/out", "--bootstrap=3000"
    )
    assert (code, err) == (0, "")
    assert "100 images in common" in printed
    assert "Accuracy of strong/e against weak/e: better (+" in printed
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [run["name"] for run in found["runs"]] == ["weak/e", "strong/e"]
    right = [((p >= 0.5) == (labels == 0))[order].astype(float) for p in (weak, strong)]
    accuracy = found["differences"]["strong/e"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(right[1].mean() - right[0].mean())
    expected = stats.bootstrap((right[1] - right[0],), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert accuracy["ci95"] == pytest.approx(list(expected.confidence_interval), abs=0.011)  # A hundredth is one image.
    assert found["differences"]["strong/e"]["brier"]["verdict"] == "better"  # Lower is.
    apart = np.abs(weak - strong)[order]
    worst = found["disagreements"][0]
    assert worst["path"] == PATHS[order[apart.argmax()]]
    assert worst["distance"] == pytest.approx(apart.max(), abs=1e-6)
    assert found["answered_differently"] == int((right[0] != right[1]).sum())
    text = (tmp_path / "out" / "compare.html").read_text()
    check_page(text)
    assert "Not all images of weak/e (120) are in common" in text
    assert text.count("<svg") > 1  # The curves, and the forest plots (tests/reports/test_compare_page.py).
    assert "Found at 0.1% alarms: because there are fewer than 1,000 images" in text


@pytest.mark.slow
def test_one_model_with_two_thresholds_through_the_command(tmp_path, capsys):
    write_export(tmp_path / "best" / "1", ["Fake", "Real"])
    data = tmp_path / "data"
    for name, first in (("Fake", 60), ("Real", 10)):
        for index in range(8):
            write_image(data / "Test" / name / f"{index}.png", (first + 22 * index, 90, 120))
    for threshold in ("0.5", "0.3"):
        out = f"--out={tmp_path}/at{threshold}"
        words = (f"--model_dir={tmp_path}/best", f"--data_dir={data}", out, "--bootstrap=0", f"--threshold={threshold}")
        assert compare(capsys, *words)[0] == 0
    code, printed, _ = compare(capsys, f"--compare={tmp_path}/at0.5,{tmp_path}/at0.3", f"--out={tmp_path}/out")
    assert code == 0
    assert "AUC of at0.3 against at0.5: no clear difference (+0.000; 95% interval +0.000 to +0.000)" in printed
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    ones = [json.loads((tmp_path / f"at{threshold}" / "metrics.json").read_text()) for threshold in ("0.5", "0.3")]
    for run, one in zip(found["runs"], ones, strict=True):
        for name in ("accuracy", "auc", "log_loss", "confusion_matrix", "threshold", "undefined"):
            assert name == "undefined" or run[name] == one[name], name
    difference = found["differences"]["at0.3"]["accuracy"]["difference"]
    assert difference == pytest.approx(ones[1]["accuracy"] - ones[0]["accuracy"])
    assert found["disagreements"] == []


def test_sources_are_drawn_where_they_are_known(tmp_path, capsys):
    labels, weak = made(1)
    _, strong = made(2)
    paths = [f"Test/{TWO[number % 2]}/v{number // 8}_frame{number}.png" for number in range(120)]
    by_name = {"unit": "sources", "count": 30, "rule": "file names: frames of a video (video_frame12.jpg)"}
    write_evaluation(tmp_path / "a", paths, labels, of_fake(weak), drawn=by_name)
    write_evaluation(tmp_path / "b", paths, labels, of_fake(strong))
    words = (f"--compare={tmp_path}/a,{tmp_path}/b", f"--out={tmp_path}/out", "--bootstrap=50")
    assert compare(capsys, *words)[0] == 0
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["drawn"] == by_name
    assert "single images may be too narrow" not in (tmp_path / "out" / "compare.html").read_text()

    of_table = {"unit": "sources", "count": 9, "rule": "column video of the groups table"}
    write_evaluation(tmp_path / "c", PATHS, labels, of_fake(weak), drawn=of_table)
    write_evaluation(tmp_path / "d", PATHS, labels, of_fake(strong))
    words = (f"--compare={tmp_path}/c,{tmp_path}/d", f"--out={tmp_path}/out", "--bootstrap=50")
    assert compare(capsys, *words)[0] == 0
    assert "single images may be too narrow" in (tmp_path / "out" / "compare.html").read_text()
    (tmp_path / "g.csv").write_text("path,video\n" + "".join(f"{path},{i // 40}\n" for i, path in enumerate(PATHS)))
    assert compare(capsys, *words, f"--groups={tmp_path}/g.csv")[0] == 0
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["drawn"] == {**of_table, "count": 3}


def test_three_classes_in_another_order(tmp_path, capsys):
    names, swapped = ("Fake", "Real", "Drawn"), ("Drawn", "Fake", "Real")
    labels = np.arange(30) % 3
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    paths = [f"Test/{names[label]}/{number}.png" for number, label in enumerate(labels)]
    write_evaluation(tmp_path / "a", paths, labels, probabilities, names)
    write_evaluation(tmp_path / "b", paths, (labels + 1) % 3, probabilities[:, [2, 0, 1]], swapped)
    assert compare(capsys, f"--compare={tmp_path}/a,{tmp_path}/b", f"--out={tmp_path}/out", "--bootstrap=20")[0] == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["differences"]["b"]["macro.auc"]["difference"] == pytest.approx(0, abs=1e-9)
    assert found["answered_differently"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: write_evaluation(e, PATHS[:9], made(1)[0][:9], of_fake(made(1)[1][:9])), "at least 10 images"),
        (lambda e: write_evaluation(e, PATHS, 1 - made(1)[0], of_fake(made(1)[1])), "the same true classes"),
        (lambda e: write_evaluation(e, PATHS, made(1)[0], of_fake(made(1)[1]), ("Fake", "Drawn")), "the classes of"),
        (lambda e: None, "expected metrics.json in"),
        (
            lambda e: write_evaluation(e, PATHS, made(1)[0], of_fake(made(1)[1]), drawn="?", class_names=3),
            "two or more different names as 'class_names', received 3",
        ),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, change, said):
    labels, scores = made(1)
    write_evaluation(tmp_path / "a", PATHS, labels, of_fake(scores))
    change(tmp_path / "b")
    words = [f"--compare={tmp_path}/a,{tmp_path}/b", f"--out={tmp_path}/out"]
    assert said in refusal(capsys, evaluate.main, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--compare=a", "--out=o"), "two or more different folders"),
        (("--compare=a,a/", "--out=o"), "two or more different folders"),
        (("--compare=a,b",), "expected --out"),
        (("--compare=a,b", "--out=o", "--data_dir=d"), "nothing is scored"),
        (("--compare=ftp://a/b,c", "--out=o"), "--compare"),
    ],
)
def test_wrong_requests(capsys, words, said):
    assert said in refusal(capsys, evaluate.main, *words)
