"""What an audit found, in the report of an evaluation and in model cards: from real audits, through the commands."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.data.test_audit import audit, resave
from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, run_job  # noqa: F401  (a fixture)
from tests.helpers.tiny_export import write_export
from tests.reports.test_model_card import section
from tests.reports.test_training_report import check_page
from trainer import evaluate
from trainer.core import cli

CLASSES = ["Fake", "Real"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return a data set with one fault of each kind; read only."""
    root = tmp_path_factory.mktemp("planted")
    data = Path(write_image_set(root, train=30, validation=6, test=12))
    shutil.copy(data / "Train/Real/00001.jpg", data / "Test/Real/leak.jpg")
    resave(data / "Train/Real/00002.jpg", data / "Test/Real/alike.jpg", quality=40)
    shutil.copy(data / "Train/Real/00003.jpg", data / "Train/Fake/conflict.jpg")
    resave(data / "Train/Real/00004.jpg", data / "Train/Real/twice.jpg")
    (data / "Train/Fake/broken.jpg").write_text("no image")
    for path in data.glob("*/Fake/0*.jpg"):  # Larger files, at a glance no other pictures.
        with Image.open(path) as image:
            image.copy().save(path, quality=99, subsampling=0)
    return data


@pytest.fixture
def data(planted, tmp_path):
    """Return a copy of it to change."""
    return Path(shutil.copytree(planted, tmp_path / "data"))


@pytest.fixture(scope="module")
def audited(planted, tmp_path_factory):
    """Return the folder of its audit, and audit.json."""
    out = tmp_path_factory.mktemp("audit")
    return out, audit(planted, out)[1]


def export(folder, audited=None):
    """Write a model of a job, which was trained on what was audited if that is given."""
    known = {"listings": {name: audited["listings"][name] for name in ("Train", "Validation")}} if audited else {}
    write_export(folder / "job" / "export" / "best" / "120", CLASSES, **known)
    return folder / "job"


def run(capsys, job, data, out, *words):
    """Evaluate on Test; return exit code, metrics.json (None after an error), the page, stdout and stderr."""
    places = [f"--model_dir={job}/export/best", f"--data_dir={data}", f"--out={out}", "--bootstrap=0"]
    code = cli.run_command(evaluate.main, [*places, *words])
    printed, err = capsys.readouterr()
    if code:
        return code, None, "", printed, err
    return code, json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text(), printed, err


@pytest.mark.slow
def test_report_card_and_terminal_tell_what_was_found(planted, audited, tmp_path, capsys):
    folder, found = audited
    job = export(tmp_path, found)
    code, figures, page, printed, _ = run(
        capsys, job, planted, tmp_path / "out", f"--audit={folder}", "--update_card"
    )  # fmt: skip
    assert code == 0
    check_page(page)
    card = section((job / "export/best/120/assets.extra/model_card.md").read_text(), "Test and robustness")
    sizes = next(cue for cue in found["cues"] if cue["name"] == "file_bytes")
    assert set(sizes["flagged"]) >= {"Train", "Test"}
    said = [
        "1 images of Train are in Test too, and 1 more look like one there.",
        "1 pictures are in more than one class, byte for byte.",
        "Files that cannot be decoded: 1 in Train.",
        "2 pictures have equal copies (4 files), and 1 pairs inside a class look alike.",
        f"File size (AUC {max(value for value in sizes['auc'].values() if value is not None):.2f} in ",
        "A model may have learned this instead of the forgery",
        f"the model&#39;s {figures['auc']:.3f}.",
        f"on {found['settings']['created'][:10]}, files by split: Train 63, Validation 12, Test 26.",
    ]
    for text in said:
        assert text in page, text
        assert text.replace("&#39;", "'") in card.replace("\\", ""), text
    assert str(folder / "audit.html") in page
    assert "other data" not in page + card
    assert figures["audit"]["differences"] == []
    problems = page.count('<li class="bad">')
    assert problems == card.count("**Problem:**") == 3 + ("At a glance" in page)
    assert f"The audit of the data names {problems} problems that these figures may owe something to" in page
    assert f"  audit     {problems} problems, see the report" in printed
    for split, classes in found["counts"].items():
        for name, count in classes.items():
            row = f'<th scope="row">{split}</th><th scope="row">{name}</th><td class="number">{count["images"]}</td>'
            assert f'{row}<td class="number">{count["bad"]}</td>' in page


@pytest.mark.slow
def test_clean_data_are_said_to_be_so(tmp_path, capsys):
    data = tmp_path / "data"
    for seed, name in enumerate(CLASSES):  # Both of pictures without a square.
        drawn = Path(write_image_set(tmp_path / name, train=8, validation=4, test=6, seed=seed))
        for split in ("Train", "Validation", "Test"):
            shutil.copytree(drawn / split / "Real", data / split / name)
    found = audit(data, tmp_path / "audit")[1]
    code, figures, page, printed, _ = run(
        capsys, export(tmp_path, found), data, tmp_path / "out", f"--audit={tmp_path}/audit/audit.json"
    )  # fmt: skip
    assert (code, figures["audit"]["differences"]) == (0, [])
    # The model, which is not trained, is of no use; the audit has nothing to say.
    assert page.count('<li class="bad">') == page.count("holds 0.5, which is guessing") == 1
    assert "No image is in two splits" in page
    assert "No plain property of the files gives the class away." in page
    assert "may owe something" not in page
    assert "  audit     no problem" in printed


@pytest.mark.slow
def test_without_an_audit_the_page_says_what_is_not_known(planted, tmp_path, capsys):
    code, figures, page, printed, _ = run(capsys, export(tmp_path), planted, tmp_path / "out")
    assert (code, "audit" in figures, "  audit  " in printed) == (0, False, False)
    assert "No audit of the data was found, so nothing is known of leakage" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("more", "in Test it saw 26 files, the model was evaluated 27. What"),
        ("renamed", "in Test it saw 26 files, the model was evaluated 26 of other names. What"),
        ("trained", "in Train it saw 63 files, the model was trained on 60. What"),
        ("unknown", "The export does not record which files it was trained on"),
    ],
)
def test_an_audit_of_other_data_is_said_to_be_one(data, audited, tmp_path, capsys, change, said):
    folder, found = audited
    known = json.loads(json.dumps(found))
    real = data / "Test" / "Real"
    if change == "more":
        shutil.copy(real / "00000.jpg", real / "new.jpg")
    if change == "renamed":
        (real / "00000.jpg").rename(real / "other.jpg")
    if change == "trained":
        known["listings"]["Train"] = {"files": 60, "sha256": "another"}
    job = export(tmp_path, None if change == "unknown" else known)
    code, figures, page, _, _ = run(
        capsys, job, data, tmp_path / "out", f"--audit={folder}/audit.json", "--update_card"
    )  # fmt: skip
    assert (code, len(figures["audit"]["differences"])) == (0, 1)
    assert said in page
    assert said in (job / "export/best/120/assets.extra/model_card.md").read_text()


@pytest.mark.slow
def test_it_is_found_beside_data_and_job_and_a_stranger_is_left_out(data, audited, tmp_path, capsys, package_log):
    file, job = audited[0] / "audit.json", export(tmp_path, audited[1])
    shutil.copy(file, job)
    assert run(capsys, job, data, tmp_path / "out")[1]["audit"]["path"] == f"{job}/audit.json"
    shutil.copy(file, data)
    assert run(capsys, job, data, tmp_path / "out")[1]["audit"]["path"] == f"{data}/audit.json"
    (data / "audit.json").write_text('{"of": "something else"}')
    assert run(capsys, job, data, tmp_path / "out")[1]["audit"]["path"] == f"{job}/audit.json"
    assert f"{data}/audit.json is left out" in package_log.text


def test_a_wrong_audit_is_refused_before_anything_is_scored(planted, audited, tmp_path, capsys):
    job, good = export(tmp_path), audited[1]
    wrong = [
        "no JSON",
        "[1]",
        json.dumps({**good, "schema": 2}),
        json.dumps({**good, "exact": None}),
        json.dumps({**good, "near": {**good["near"], "inside": float("nan")}}),
        json.dumps({name: value for name, value in good.items() if name != "listings"}),
        json.dumps({**good, "counts": {"Test": {"Fake": {"images": "many", "bad": 0}}}}),
    ]
    for number, text in enumerate(wrong):
        (tmp_path / f"{number}.json").write_text(text)
    for path in [*(tmp_path / f"{number}.json" for number in range(len(wrong))), tmp_path / "none.json", tmp_path]:
        code, _, _, printed, err = run(capsys, job, planted, tmp_path / "out", f"--audit={path}")
        assert (code, printed, err.count("\n")) == (2, "", 1), path
        assert "--audit: expected audit.json" in err
        assert str(path) in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_job_tells_of_the_audit_in_its_job_dir(tmp_path, capsys):
    data = Path(write_image_set(tmp_path / "data", train=20, validation=0, test=6))
    shutil.copy(data / "Train/Real/00001.jpg", data / "Test/Real/leak.jpg")
    job = tmp_path / "job"
    found = audit(data, job)[1]
    assert run_job(data, job, export="best", epochs=1, augment="none") == 0
    (card,) = job.glob("export/best/*/assets.extra/model_card.md")
    text = section(card.read_text(), "Data")
    assert "1 images of Train are in Test too" in text
    assert "other data" not in text  # Validation is a share of Train here, and together they are what was audited.
    metadata = json.loads((card.parent / "deepdetect.json").read_text())
    assert metadata["listings"] == {"Train": found["listings"]["Train"]}
    code, figures, page, _, _ = run(capsys, job, data, tmp_path / "out")
    assert (code, figures["audit"]["differences"]) == (0, [])
    assert "1 images of Train are in Test too" in page
