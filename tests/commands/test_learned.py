"""A job on labels at random says everywhere that it learned nothing, and exports nothing below --require_auc."""

import html
import json
import random
import re
from pathlib import Path

import pytest

from tests.helpers.images import write_image_set
from tests.helpers.jobs import argv, float32_policy, lines_of, result_of, run_job  # noqa: F401
from trainer import evaluate, train
from trainer.core import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Return data_dir of images whose classes were drawn."""
    data = Path(write_image_set(tmp_path_factory.mktemp("noise"), train=40, validation=20, test=20))
    draw = random.Random(0)
    for split in data.iterdir():
        images = sorted(split.glob("*/*.jpg"))
        names = draw.sample([str(image) for image in images], len(images))
        for number, image in enumerate(images):
            image.rename(split / f"{number}.jpg")
        for number, name in enumerate(names):
            (split / f"{number}.jpg").rename(name)
    return str(data)


def first_line(page):
    """Return the first text of a page's main part."""
    main = html.unescape(page.read_text()).split('<main id="main">')[1]
    return main.strip().split("\n")[0]


def test_labels_at_random(noise, tmp_path, capsys):
    job, words = tmp_path / "job", {"epochs": 1, "export": "best"}
    assert run_job(noise, job, report=True, require_auc=0.9, **words) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    result = result_of(job)
    auc, (low, high) = result["validation"]["auc"], result["auc_interval"]
    assert low <= 0.5 <= high
    for said in (f"received {auc:.4f} (95% interval {low:.4f} to {high:.4f})", "at least 0.9", "nothing was exported",
                 f"{job}/report/index.html"):  # fmt: skip
        assert said in line
    assert (result["status"], result["exports"], result["learned"]) == ("done", {}, False)
    assert f"{low:.3f} to {high:.3f}, holds 0.5" in result["learned_because"]
    (warning,) = [line for line in err.splitlines() if line.startswith("Learned")]
    assert warning.startswith(f"Learned nothing: {result['learned_because']}. To do: check the labels")
    assert warning in first_line(job / "report" / "index.html")
    assert not (job / "export").exists()

    # The same command fails again, and trains nothing.
    before = (job / "metrics.jsonl").read_bytes()
    assert cli.run_command(train.main, argv(noise, job, require_auc=0.9, **words)) == 1
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert (job / "metrics.jsonl").read_bytes() == before

    # Without it the model is exported, and says what it is.
    assert run_job(noise, job, **words) == 0
    assert f"learned nothing: {result['learned_because']}" in capsys.readouterr().out
    assert result_of(job)["learned"] is False
    (model,) = (job / "export" / "best").iterdir()
    text = (model / "assets.extra" / "model_card.md").read_text()
    card = re.sub(r"\A---\n.*?\n---\n\n", "", text, flags=re.DOTALL).splitlines()  # After the Hub's metadata.
    assert card[0] == f"> **Warning.** {escape(warning)}"
    assert card[2].startswith("# Model card")
    assert len(lines_of(job, "validation")) == 1

    # So does an evaluation on images that are drawn alike.
    out = tmp_path / "out"
    flags = [f"--model_dir={model}", f"--data_dir={noise}", f"--out={out}", "--bootstrap=200", "--update_card"]
    assert cli.run_command(evaluate.main, flags) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["learned"] is False
    said = f"The model is of no use on these images: {figures['learned_because']}."
    low, high = figures["ci95"]["auc"]
    assert f"{low:.3f} to {high:.3f}" in said
    assert capsys.readouterr().out.startswith(f"{said}\nTest: ")
    assert said in first_line(out / "report.html")
    assert f"**Warning.** {escape(said)}" in (model / "assets.extra" / "model_card.md").read_text()


def escape(text):
    return text.replace("_", "\\_")


def test_images_that_differ_are_learned(image_set, tmp_path, capsys):
    job = tmp_path / "job"
    assert run_job(image_set, job, require_auc=0.6, optimizer="adam") == 0  # Nothing is scored: the AUC alone decides.
    result = result_of(job)
    assert (result["learned"], result["learned_because"]) == (True, "")
    assert result["auc_interval"][0] > 0.5
    assert "learned" not in "".join(capsys.readouterr()).lower()
    old = {name: value for name, value in result.items() if "learned" not in name and name != "auc_interval"}
    (job / "result.json").write_text(json.dumps(old))  # As an earlier version wrote it.
    assert run_job(image_set, job, require_auc=0.6) == 0
    assert run_job(image_set, job, require_auc=1.0) == (result["validation"]["auc"] < 1.0)
