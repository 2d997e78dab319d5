"""The model card: every figure is the one that was measured, odd names do no harm, an evaluation has one section."""

import html
import json
import re

import numpy as np
import pytest

from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate
from trainer.core import cli
from trainer.reports import model_card
from trainer.reports.model_card import CardFacts, escape

CHOICE = {"by": "accuracy", "why": "", "images": 40, "tpr": 0.9, "fpr": 0.1, "accuracy": 0.9, "balanced_accuracy": 0.9}


def metadata(names, **more):
    return {
        "class_names": names, "positive_class": names[0], "image_size": 64, "step": 12, "epoch": 3,
        "monitor": "val_loss", "validation": {"loss": 0.4, "accuracy": 0.875, "auc": 0.95}, "precision": "float32",
        "config": {"data_dir": "faces", "model": "cnn", "seed": 3}, "versions": {"deepdetect": "0.1.0"},
        "created": "2026-11-22T00:00:00+00:00", "threshold": 0.375, "temperature": 1.0, "threshold_choice": CHOICE,
        **more,
    }  # fmt: skip


def cells(card, *titles):
    """Return the cells of every table row whose first cells are these, unescaped."""
    found = []
    for line in card.splitlines():
        row = [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if row[: len(titles)] == list(titles):
            found.append(row[len(titles) :])
    return found


def section(card, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_threshold_data_and_limits(classes):
    names = ["Fake", "Real", "Drawn"][:classes]
    labels = np.arange(40) % classes
    noise = np.random.default_rng(0).random([40, classes])
    probabilities = (np.eye(classes)[labels] + 2 * noise).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    meta = metadata(names, threshold_choice=CHOICE if classes == 2 else {"by": "accuracy", "why": "", "images": 0})
    paths = [f"Validation/{names[label]}/{i}x.jpg" for i, label in enumerate(labels)]
    figures = model_card.measure(labels, probabilities, paths, meta)
    called = probabilities[:, 0] >= np.float32(0.375)
    right = np.where(called, 0, 1) == labels if classes == 2 else probabilities.argmax(axis=1) == labels
    assert figures["accuracy"] == pytest.approx(right.mean())
    images = {"Train": dict.fromkeys(names, 50), "Validation": dict.fromkeys(names, 20)}
    facts = CardFacts(images, {"Train": 2, "Validation": 0}, True, figures, {"SHA-256 of the weights": "abc"})
    card = model_card.render(meta, facts)
    ((value, interval),) = cells(section(card, "Figures on Validation"), "Accuracy")
    assert value == f"{right.mean():.1%}"
    assert interval == " to ".join(f"{bound:.1%}" for bound in figures["ci95"]["accuracy"])
    assert cells(card, "Train", "Fake") == [["50", f"{1 / classes:.1%}"]]
    assert "Of these 2 in Train could not be decoded and were skipped.\n" in card
    assert "in Validation could not" not in card
    assert "Validation was held out of Train" in card
    assert cells(card, "SHA-256 of the weights") == [["abc"]]
    assert cells(card, "Seed") == [["3"]]
    assert json.loads(re.search(r"```json\n(.*?)```", card, re.DOTALL)[1]) == meta["config"]
    # Of 1,000 images 10 are fake: 9 are found, and 99 of the others called so.
    assert ("about 8 would be" in " ".join(card.split())) == (classes == 2)
    assert ("The threshold is 0.375, chosen on 40 Validation images" in card) == (classes == 2)
    assert "Not measured at export" in section(card, "Test and robustness")


def test_without_predictions_the_card_says_what_the_loop_measured():
    choice = {"by": "none", "why": "--threshold_by=none", "images": 0}
    card = model_card.render(metadata(["Fake", "Real"], threshold=0.5, threshold_choice=choice), CardFacts())
    assert cells(card, "accuracy") == [["0.875"]]
    assert "without intervals" in card
    assert "The threshold was not chosen on Validation" in card
    assert "The numbers of images are not recorded." in card
    assert "No audit of the data" in section(card, "Data")


def test_odd_names_stay_in_their_cell():
    names = ["Fa|ke\n## Real <b>", "`Real`*_["]
    config = {"data_dir": "a|b\n```\n# c", "model": "cnn"}
    card = model_card.render(metadata(names, config=config), CardFacts({"Train": {names[0]: 1, names[1]: 3}}))
    assert "All of them could be decoded." in card
    assert cells(card, "Train", "Fa|ke ## Real <b>") == [["1", "25.0%"]]
    assert cells(card, "Train", "`Real`*_[") == [["3", "75.0%"]]
    plain = model_card.render(metadata(["Fake", "Real"]), CardFacts())
    headings = [[line for line in text.splitlines() if line.startswith("#")][1:] for text in (card, plain)]
    assert headings[0] == headings[1]
    assert card.count("```") == 2 + 1  # The fence, and the one that stands inside a JSON string.
    assert json.loads(re.search(r"```json\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)[1]) == config
    assert escape("a\r\nb\u2028c\udce9") == r"a b c\\xe9"
    assert "<b>" not in card.replace("\\<b\\>", "")


def test_sections_replace_their_own_split_only():
    card = model_card.render(metadata(["Fake", "Real"]), CardFacts()) + "\nWritten by hand.\n"
    once = model_card.with_section(card, "Test", "### Test\nfirst\n")
    assert "Not measured" not in once
    two = model_card.with_section(once, "--> x", "### other\n")
    again = model_card.with_section(two, "Test", "### Test\nsecond\n")
    assert again == model_card.with_section(again, "Test", "### Test\nsecond\n")
    assert re.findall(r"^### .*|^second|^first", again, re.MULTILINE) == ["### Test", "second", "### other"]
    assert again.endswith("\nWritten by hand.\n")
    assert section(again, "Limits") == section(card, "Limits")
    assert "### Test" in model_card.with_section("A card without the lines.", "Test", "### Test\n")


@pytest.mark.slow
@pytest.mark.parametrize("names", [["Fake", "Real"], ["Fake", "Real", "Dr|awn"]])
def test_an_evaluation_goes_into_the_card(tmp_path, capsys, names):
    version = tmp_path / "job" / "export" / "best" / "120"
    write_export(version, names)
    for label, name in enumerate(names):
        for index, level in enumerate((90, 130, 250)):
            colour = [100, 100, 100]
            colour[label] = level
            write_image(tmp_path / "data" / "Test" / name / f"{index}.png", tuple(colour))
    words = [f"--model_dir={version.parent}", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'out'}"]
    words += ["--bootstrap=20", "--update_card"]
    assert cli.run_command(evaluate.main, [*words, "--robustness", "--robustness_images=3"]) == 0
    path = version / "assets.extra" / "model_card.md"
    assert str(path) in capsys.readouterr().out
    card, figures = path.read_text(), json.loads((tmp_path / "out" / "metrics.json").read_text())
    ((value, interval),) = cells(section(card, "Test and robustness"), "Accuracy")
    assert value == f"{figures['accuracy']:.1%}"
    assert interval == " to ".join(f"{bound:.1%}" for bound in figures["ci95"]["accuracy"])
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th><td class="number">([^<]+)</td><td>([^<]*)</td><td>', page)
    assert len(rows) == len(figures["ci95"])
    for title, *row in rows:  # Report and card say the same of every figure.
        assert cells(section(card, "Test and robustness"), title) == [row]
    (sentence,) = re.findall(r'<p class="note">(Intervals: [^<]+)</p>', page)
    assert escape(sentence) in card
    for name, counts in zip(names, figures["confusion_matrix"], strict=True):
        assert [str(count) for count in counts] in cells(card, name)
    results = figures["robustness"]["kinds"]["blur"]["results"]
    assert len(cells(card, "blur")) == len(results)
    del figures["robustness"]  # Then the section is another one.
    model_card.add_evaluation(str(version), {}, figures)
    card = path.read_text()
    assert len(cells(card, "Accuracy")) == 1
    assert not cells(card, "blur")
    assert "Robustness: not measured" in card


def test_a_failing_card_costs_nothing(package_log):
    assert model_card.attempt(lambda: model_card.render({}, CardFacts())) == ""
    assert "the model card could not be made" in package_log.text
