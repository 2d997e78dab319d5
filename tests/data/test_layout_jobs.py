"""A list from training to evaluation, and jobs that an older version began."""

import csv
import json
from pathlib import Path

import pytest

from tests.helpers.images import write_image_set
from tests.helpers.jobs import result_of, run_job
from trainer import evaluate, prepare_data
from trainer.core import cli
from trainer.core.config import LayoutConfig
from trainer.core.job_dir import JobPaths
from trainer.data import manifest
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags
from trainer.training import resume


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Write images without any usual name of a folder, and a list of them with methods and videos."""
    root = tmp_path_factory.mktemp("faces")
    write_image_set(root / "raw", train=20, validation=0, test=0, classes=("a", "b"))
    with open(root / "list.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "target", "video", "method"])
        for name, label in (("a", "forged"), ("b", "genuine")):
            rows.writerows([f"raw/Train/{name}/{n:05d}.jpg", label, f"{name}{n // 2}", ("gan", "swap")[n // 2 % 2]]
                           for n in range(20))  # fmt: skip
        rows.writerow(["raw/nowhere.jpg", "genuine", "gone", ""])
    return root / "list.csv"


@pytest.mark.slow
def test_a_list_from_training_to_evaluation(faces, tmp_path, capsys):
    job, out = tmp_path / "job", tmp_path / "out"
    settings = {"test_fraction": 0.3, "split_seed": 2, "validation_fraction": 0.3, "labels": "real:genuine,fake:forged"}
    assert run_job(faces, job, export="best", max_bad_fraction=0.2, epochs=1, **settings) == 0
    log = capsys.readouterr().err
    line = next(line for line in log.splitlines() if "held out by seed" in line)
    assert "Train: the rest of list" in line
    assert "whole sources (column source of the data)" in line
    card = next((job / "export/best").rglob("model_card.md")).read_text()
    assert "Validation was held out of Train: no source is in two splits" in card
    words = [f"--model_dir={job}/export/best", f"--data_dir={faces}", f"--out={out}", "--bootstrap=20",
             "--max_bad_fraction=0.5"]  # fmt: skip
    assert cli.run_command(evaluate.main, words) == 0
    err = capsys.readouterr().err
    assert "as in training: --labels=real:genuine,fake:forged, --test_fraction=0.3, --split_seed=2" in err
    figures = json.loads((out / "metrics.json").read_text())
    layout = LayoutConfig(test_fraction=0.3, split_seed=2, labels=settings["labels"])
    expected = manifest.read_split(str(faces), "Test", layout=layout)
    assert figures["n"] + figures["skipped"] == len(expected)
    assert {group["value"] for group in figures["groups"]["method"]} <= {"(none)", "gan", "swap"}
    fakes = [group for group in figures["groups"]["method"] if group["value"] != "(none)"]
    assert all(0 <= group["against_rest"]["auc"] <= 1 for group in fakes)
    assert figures["videos"]["n"] == len({*expected.columns["source"]} - {"gone"})
    assert "Whole videos" in (out / "report.html").read_text()
    with open(out / "predictions.csv", newline="") as file:
        assert all((faces.parent / row["path"]).exists() for row in csv.DictReader(file))


def videos_in(root):
    source = write_image_set(root / "plain", train=16, validation=0, test=0)
    for path in sorted(Path(source).rglob("*.jpg")):
        target = root / "data/Train" / path.parent.name / f"v{int(path.stem) // 4}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return root / "data"


@pytest.mark.slow
def test_a_job_that_began_before_keeps_the_images_it_held_out(tmp_path, capsys):
    data, job = videos_in(tmp_path), tmp_path / "job"
    settings = {"batch_size": 8, "validation_fraction": 0.25}
    assert run_job(data, job, epochs=1, split_by="image", **settings) == 0
    config = json.loads((job / "config.json").read_text())
    older = {name: value for name, value in config.items() if name not in LayoutConfig.__dataclass_fields__}
    (job / "config.json").write_text(json.dumps(older))  # As an older version wrote it.
    capsys.readouterr()
    assert run_job(data, job, **settings) == 0
    assert "held out by seed 0: Fake" in capsys.readouterr().err
    assert run_job(data, job, **{**settings, "epochs": 3}) == 0  # Again, as the file says it now.
    whole = tmp_path / "whole"
    assert run_job(data, whole, split_by="image", epochs=3, **settings) == 0
    assert result_of(whole)["weights_sha256"] == result_of(job)["weights_sha256"]


def test_settings_of_the_layout_are_those_the_job_began_with(tmp_path):
    from trainer.core.config import from_flat

    paths = JobPaths(str(tmp_path))
    assert resume.layout_of(from_flat({"job_dir": str(tmp_path)}), paths) == {}
    Path(paths.config).write_text(json.dumps({"seed": 1}))
    request = from_flat({"job_dir": str(tmp_path)})
    assert resume.layout_of(request, paths) == {"layout": "exact", "split_by": "image"}
    Path(paths.config).write_text(json.dumps({"seed": 1, "layout": "auto", "labels": "a:b,c:d", "split_by": "source"}))
    assert resume.layout_of(request, paths)["labels"] == "a:b,c:d"
    assert "labels" not in resume.layout_of(request.replace(labels="a:x,c:d"), paths)


@pytest.mark.slow
def test_a_packed_list_is_the_same_set(faces, tmp_path):
    layout = {"labels": "real:genuine,fake:forged"}
    splits = manifest.read_all_splits(str(faces), LayoutConfig(**layout))
    writer.pack(PackFlags(data_dir=str(faces), out=str(tmp_path / "out"), **layout), splits)
    for split in splits:
        packed = manifest.read_split(str(tmp_path / "out"), split.name)
        assert packed.fingerprint == split.fingerprint
        assert packed.columns == {name: list(values) for name, values in split.columns.items()}
    held = [manifest.read_train_and_validation(str(one), 0.3, 1, layout=LayoutConfig(**layout))[1].names
            for one in (faces, tmp_path / "out")]  # fmt: skip
    assert tuple(held[0]) == tuple(held[1])


@pytest.mark.slow
def test_the_audit_of_a_list_says_whether_splits_share_sources(faces, tmp_path, capsys):
    words = [f"--data_dir={faces}", f"--out={tmp_path}/audit", "--workers=1", "--labels=real:genuine,fake:forged"]
    assert cli.run_command(prepare_data.main, ["audit", *words]) == 0
    summary = json.loads((tmp_path / "audit/audit.json").read_text())
    assert summary["sources"]["shared"] == 0
    assert [bad["path"] for bad in summary["bad"]] == ["raw/nowhere.jpg"]
    assert "no source is in two splits (column source of the data)" in capsys.readouterr().out
    assert "No source is in two splits" in (tmp_path / "audit/audit.html").read_text()
