"""Evaluation through the command; every figure is recomputed from predictions.csv by scikit-learn alone."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from tests.helpers import recompute
from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate
from trainer.data.manifest import read_split
from trainer.evaluation import predict_split
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.request import EvaluateFlags
from trainer.reports import gallery
from trainer.serving import exported_model


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "job" / "export" / "best"
    write_export(folder / "120", ["Fake", "Real"])
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three") / "best"
    write_export(folder / "7", ["Fake", "Real", "Drawn"])
    return folder


def write_split(root, reds_by_class):
    for name, reds in reds_by_class.items():
        for index, red in enumerate(reds):
            write_image(root / "Test" / name / f"{index:02d}.png", (red, 90, 120))
    return root


REDS = {"Fake": [250, 200, 180, 160, 90, 140, 30], "Real": [10, 40, 60, 150, 100, 90, 20, 210]}


def run(capsys, model, data, out, *more):
    return answer(capsys, evaluate.main, f"--model_dir={model}", f"--data_dir={data}", f"--out={out}", *more)


def read(out):
    figures = json.loads((out / "metrics.json").read_text())
    with open(out / "predictions.csv", newline="") as file:
        return figures, list(csv.DictReader(file))


@pytest.mark.slow
def test_two_classes_from_predictions_alone(two, tmp_path, capsys):
    data, out = write_split(tmp_path / "data", REDS), tmp_path / "out"
    code, printed, _ = run(capsys, two, data, out, "--bootstrap=200", "--batch_size=4")
    assert code == 0
    figures, rows = read(out)
    assert list(rows[0]) == ["path", "label", "p_fake"]
    expected = [f"Test/{name}/{i:02d}.png" for name, reds in REDS.items() for i in range(len(reds))]
    assert [row["path"] for row in rows] == expected
    reds = np.array([*REDS["Fake"], *REDS["Real"]]) / 255
    assert [float(row["p_fake"]) for row in rows] == pytest.approx(reds.tolist(), abs=1e-5)

    recompute.check(figures, rows)
    wanted = "accuracy auc average_precision eer log_loss brier ece threshold confusion_matrix ci95 per_class n"
    assert set(wanted.split()) <= set(figures)
    for name in ("accuracy", "auc", "average_precision", "log_loss"):
        low, high = figures["ci95"][name]
        assert low <= figures[name] <= high
    assert figures["model"]["step"] == 120
    assert "accuracy  0.7333" in printed
    assert str(out / "report.html") in printed
    assert not (out / "skipped.jsonl").exists()


@pytest.mark.slow
def test_three_classes_from_predictions_alone(three, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    rng = np.random.default_rng(0)
    for label, name in enumerate(["Fake", "Real", "Drawn"]):
        for index in range(5):
            colour = rng.integers(20, 160, 3)
            colour[label] += 60
            write_image(data / "Test" / name / f"{index}.png", tuple(colour.tolist()))
    assert run(capsys, three, data, out, "--bootstrap=50")[0] == 0
    figures, rows = read(out)
    assert list(rows[0]) == ["path", "label", "p_fake", "predicted", "p_Fake", "p_Real", "p_Drawn"]
    assert figures["macro"]["auc"] is not None
    code, _, err = run(capsys, three, data, out, "--threshold=0.4")
    assert (code, "expected a model of two classes, received one of 3" in err) == (2, True)
    recompute.check(figures, rows)


@pytest.mark.slow
def test_groups_in_all_three_results(two, tmp_path, capsys):
    data, out, table = write_split(tmp_path / "data", REDS), tmp_path / "out", tmp_path / "groups.csv"
    rows = [f"Test/Fake/{i:02d}.png,{'swap' if i < 4 else 'draw'},v{i // 2}" for i in range(7)]
    table.write_text("path,method,video\n" + "\n".join(rows) + "\n")
    words = ["--bootstrap=40", f"--groups={table}"]
    code, printed, _ = run(capsys, two, data, out, *words)
    assert code == 0
    figures, _ = read(out)
    found = figures["groups"]["method"]
    assert [(group["value"], group["n"]) for group in found] == [("draw", 3), ("(none)", 8), ("swap", 4)]
    assert found[0]["accuracy"] == pytest.approx(1 / 3)
    assert figures["drawn"] == {"unit": "sources", "count": 4 + 8, "rule": "column video of the groups table"}
    assert "by method (lowest accuracy first):\n  draw    accuracy 0.3333" in printed
    assert "intervals over 12 sources, by column video" in printed
    page = (out / "report.html").read_text()
    assert page.index('<th scope="row">draw</th>') < page.index('<th scope="row">swap</th>')
    assert "all images are of the positive class" in page
    assert "bootstrap over 12 sources by column video" in page
    code, _, err = run(capsys, two, data, out, *words, "--group_by=lens")
    assert (code, err.count("\n")) == (2, 1)
    assert "(method, video)" in err


@pytest.mark.slow
def test_another_threshold(two, tmp_path, capsys):
    data, out = write_split(tmp_path / "data", REDS), tmp_path / "out"
    assert run(capsys, two, data, out, "--bootstrap=20", "--threshold=0.2")[0] == 0
    figures, rows = read(out)
    recompute.check(figures, rows)
    assert (figures["threshold"], figures["threshold_choice"]["by"]) == (0.2, "--threshold")
    assert figures["confusion_matrix"] == [[6, 1], [5, 3]]  # Of REDS from 51 up.
    assert "given by --threshold instead of the export" in (out / "report.html").read_text()


@pytest.mark.slow
def test_what_a_temperature_changed_is_told(tmp_path, capsys):
    choice = {"by": "fpr", "why": "", "images": 2000}
    write_export(tmp_path / "1", ["Fake", "Real"], temperature=2.0, threshold_choice=choice)
    data, out = write_split(tmp_path / "data", REDS), tmp_path / "out"
    assert run(capsys, tmp_path, data, out, "--bootstrap=0")[0] == 0
    figures, rows = read(out)
    p, truth = np.array([float(row["p_fake"]) for row in rows]), [row["label"] == "Fake" for row in rows]
    colder = p**2 / (p**2 + (1 - p) ** 2)  # Undoes a temperature of 2.
    effect = figures["calibration"]
    assert effect["temperature"] == 2.0
    assert effect["after"] == {name: figures[name] for name in ("log_loss", "ece")}
    assert effect["before"]["log_loss"] == pytest.approx(sk.log_loss(truth, colder))
    page = (out / "report.html").read_text()
    assert "A temperature of 2, fitted on Validation" in page
    assert "chosen on 2,000 Validation images (most found within the allowed false alarms)" in page


@pytest.mark.slow
def test_bad_images_are_skipped_named_and_limited(two, tmp_path, capsys):
    data, out = write_split(tmp_path / "data", REDS), tmp_path / "out"
    bad = data / "Test" / "Fake" / "03a.jpg"
    bad.write_bytes(b"\xff\xd8\xff broken")
    code, _, err = run(capsys, two, data, out, "--bootstrap=0")
    assert code == 2
    assert "at most 5.0% of 16 images" in err
    assert "Test/Fake/03a.jpg" in err.splitlines()[-1]
    code, printed, err = run(capsys, two, data, out, "--bootstrap=0", "--max_bad_fraction=0.1")
    assert code == 0
    assert "15 images, 1 skipped" in printed
    figures, rows = read(out)
    assert (figures["n"], figures["skipped"], len(rows)) == (15, 1, 15)
    assert all(row["path"] != "Test/Fake/03a.jpg" for row in rows)
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [entry["path"] for entry in skipped] == ["Test/Fake/03a.jpg"]
    assert figures["undefined"]["ci95.auc"] == "no resamples were asked for"
    bad.unlink()
    export = exported_model.find_export(str(two))
    predict_split.predict_split(export, read_split(str(data), "Test", export.class_names), EvaluateFlags(out=str(out)))
    assert (out / "skipped.jsonl").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reds", "ranked"),
    [
        ({"Fake": [10, 200, 90]}, False),
        ({"Real": [77]}, False),
        ({"Fake": [9, 9], "Real": [9]}, False),
        ({"Fake": [3, 200], "Real": [90]}, True),
    ],
)
def test_degenerate_splits_are_undefined_not_nan(two, tmp_path, capsys, reds, ranked):
    data, out = write_split(tmp_path / "data", reds), tmp_path / "out"
    code, printed, _ = run(capsys, two, data, out, "--bootstrap=20")
    assert code == 0
    figures, rows = read(out)
    recompute.check(figures, rows)
    assert (figures["auc"] is not None) == ranked
    assert ("undefined, because" in printed) != ranked
    assert ("curves are undefined, because" in (out / "report.html").read_text()) != ranked
    assert "nan" not in (out / "metrics.json").read_text().lower()


@pytest.mark.slow
@pytest.mark.parametrize("names", [["Fake", "Real"], ["Fake", "Drawn"], ["Real"]])
def test_a_class_of_three_may_be_absent(three, tmp_path, capsys, names):
    data, out = tmp_path / "data", tmp_path / "out"
    for name in names:
        for index, red in enumerate((40, 90, 200)):
            write_image(data / "Test" / name / f"{index}.png", (red, 80, 30 + len(name)))
    assert run(capsys, three, data, out, "--bootstrap=20")[0] == 0
    figures, rows = read(out)
    recompute.check(figures, rows)
    assert "there is no image of" in figures["undefined"]["macro.auc"]
    assert "there is no image of" in figures["undefined"]["balanced_accuracy"]


def test_worst_mistakes_come_first():
    p = np.array([0.9, 0.1, 0.4, 0.8, 0.55], np.float32)
    scored = Predictions.of(np.array([0, 0, 0, 1, 1]), np.stack([p, 1 - p], axis=1), ("Fake", "Real"), 0, 0.5)
    assert gallery.worst_mistakes(scored).tolist() == [1, 3, 2, 4]
    assert gallery.spread_samples(scored, 2).tolist() == [0, 2, 3, 4]


@pytest.mark.slow
def test_every_image_counts_in_any_batch_size(two, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("Fake", "Real"):
        (tmp_path / "Test" / name).mkdir(parents=True)
        for index in range(9):
            pixels = rng.integers(0, 255, [24, 40, 3], dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "Test" / name / f"{index}.jpg")
    export = exported_model.find_export(str(two))
    split = read_split(str(tmp_path), "Test", export.class_names)
    scores = []
    for batch_size in (1, 7, 64):
        request = EvaluateFlags(out=str(tmp_path), batch_size=batch_size)
        scores.append(predict_split.predict_split(export, split, request).probabilities)
    assert scores[0].shape == (18, 2)
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-6)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--split=Holdout"], "Holdout"),
        (["--data_dir="], "expected --data_dir"),
        (["--out="], "expected --out"),
        (["--bootstrap=-1"], "at least 0"),
        (["extra"], "expected only flags"),
        (["--model_dir=/nowhere"], "no such folder"),
        (["--out=/dev/null/x"], "can be written"),
        (["--threshold=1.5"], "a number from 0 to 1"),
        (["--threshold=nan"], "a number from 0 to 1"),
        (["--groups=/nowhere.csv"], "--groups: expected a list file"),
    ],
)
def test_wrong_requests(two, tmp_path, capsys, more, said):
    data = write_split(tmp_path / "data", REDS)
    words = [f"--model_dir={two}", f"--data_dir={data}", f"--out={tmp_path / 'out'}", *more]
    assert said in refusal(capsys, evaluate.main, *words)


def test_a_class_that_the_model_does_not_know(two, tmp_path, capsys):
    data = write_split(tmp_path / "data", {**REDS, "Drawn": [5]})
    code, _, err = run(capsys, two, data, tmp_path / "out")
    assert code == 2
    assert "Drawn" in err
