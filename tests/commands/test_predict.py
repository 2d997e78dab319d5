"""Prediction through the command, on real files, with an export whose scores are known beforehand."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from trainer import predict
from trainer.core import globs
from trainer.core.errors import RequestError
from trainer.serving import exported_model
from trainer.serving.predictor import Predictor


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "export" / "best"
    write_export(folder / "9", ["Fake", "Real"], threshold=0.9)
    write_export(folder / "120", ["Fake", "Real"], explains=True)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("three") / "1", ["Fake", "Real", "Drawn"])


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for index, red in enumerate([255, 204, 102, 51]):
        write_image(folder / f"{index}.png", (red, 0, 0))
    write_image(folder / "deep" / "er" / "4.png", (153, 0, 0))
    write_image(folder / ".hidden" / "5.png", (0, 0, 0))
    write_image(folder / ".6.png", (0, 0, 0))
    return folder


def run(capsys, *words):
    return answer(capsys, predict.main, *words)


def test_folder_to_csv(exports, images, tmp_path, capsys):
    out = tmp_path / "new" / "rows.csv"
    code, printed, err = run(capsys, images, f"--model_dir={exports}", f"--out={out}", "--batch_size=2")
    assert (code, printed) == (0, "")
    assert "scored 5 images" in err
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert list(rows[0]) == ["path", "label", "p_fake", "error"]
    names = ["0.png", "1.png", "2.png", "3.png", "deep/er/4.png"]
    assert [row["path"] for row in rows] == [f"{images}/{name}" for name in names]
    assert [float(row["p_fake"]) for row in rows] == pytest.approx([1.0, 0.8, 0.4, 0.2, 0.6], abs=1e-5)
    assert [row["label"] for row in rows] == ["Fake", "Fake", "Real", "Real", "Fake"]
    assert {row["error"] for row in rows} == {""}


@pytest.mark.slow
def test_bad_files_get_rows_and_the_others_go_on(exports, images, tmp_path, capsys):
    (images / "0a.png").write_bytes(b"not an image")
    (images / "9.jpg").write_bytes(b"")
    gone = images / "gone.png"
    out = tmp_path / "rows.jsonl"
    code, _, err = run(capsys, f"--model_dir={exports}", images, gone, f"--out={out}")
    assert code == 1
    assert "3 of 8 images could not be scored" in err
    rows = {row["path"].removeprefix(f"{images}/"): row for row in map(json.loads, out.read_text().splitlines())}
    failed = {name for name, row in rows.items() if row["error"]}
    assert failed == {"0a.png", "9.jpg", "gone.png"}
    assert "Unknown image file format" in rows["0a.png"]["error"]
    assert "empty" in rows["9.jpg"]["error"]
    assert rows["gone.png"] == {
        "path": str(gone), "label": None, "p_fake": None, "error": "No such file or directory",
    }  # fmt: skip
    assert rows["1.png"]["p_fake"] == pytest.approx(0.8, abs=1e-5)


def test_table_and_version_folder(exports, images, capsys):
    code, printed, _ = run(capsys, images / "1.png", images / "3.png", f"--model_dir={exports}/9")
    assert code == 0
    assert printed.splitlines() == [
        "label  p_fake  path",
        f"Real   0.8000  {images}/1.png",  # Version 9 has the threshold 0.9.
        f"Real   0.2000  {images}/3.png",
    ]


@pytest.mark.slow
def test_three_classes(three, images, tmp_path, capsys):
    write_image(images / "mix.png", (51, 102, 102))
    out = tmp_path / "rows.csv"
    assert run(capsys, images / "mix.png", f"--model_dir={three}", f"--out={out}")[0] == 0
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert list(row) == ["path", "label", "p_fake", "error", "p_Fake", "p_Real", "p_Drawn"]
    assert row["label"] == "Real"
    assert [float(row[f"p_{name}"]) for name in ("Fake", "Real", "Drawn")] == pytest.approx([0.2, 0.4, 0.4])
    assert row["p_fake"] == row["p_Fake"]


def test_words_once_and_sorted(images):
    def names(*words, stdin=()):
        found = globs.expand([str(word) for word in words], stdin)
        return [path.removeprefix(f"{images}/") for path in found]

    assert names(images / "2.png", images) == ["2.png", "0.png", "1.png", "3.png", "deep/er/4.png"]
    assert names(images / "[12].png") == ["1.png", "2.png"]
    assert names(f"{images}/**/*.png")[-1] == "deep/er/4.png"
    assert names(f"{images}/d*") == ["deep/er/4.png"]
    assert names("-", stdin=[f"{images}/3.png", "", f"{images}/0.png"]) == ["3.png", "0.png"]
    (images / "odd[1].png").write_bytes(b"")
    assert names(images / "odd[1].png") == ["odd[1].png"]


def test_reading_stdin(exports, images, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images}/3.png\n{images}/0.png\n"))
    code, printed, _ = run(capsys, "-", f"--model_dir={exports}")
    assert code == 0
    assert [line.split()[1] for line in printed.splitlines()] == ["p_fake", "0.2000", "1.0000"]


@pytest.mark.slow
def test_another_threshold(exports, images, capsys):
    words = [images / f"{index}.png" for index in range(4)]
    for threshold, labels in (
        (0.9, "Fake Real Real Real"),
        (0.3, "Fake Fake Fake Real"),
        ("", "Fake Fake Real Real"),
        ("0", "Fake Fake Fake Fake"),
    ):
        code, printed, _ = run(capsys, *words, f"--model_dir={exports}/120", f"--threshold={threshold}")
        assert code == 0
        assert [line.split()[0] for line in printed.splitlines()[1:]] == labels.split()


@pytest.mark.slow
def test_devices_change_neither_answers_nor_order(exports, images, tmp_path, capsys):
    (images / "1a.png").write_bytes(b"broken")
    texts = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.csv"
        words = [images, f"--model_dir={exports}", f"--out={out}", "--batch_size=1", f"--num_devices={devices}"]
        assert run(capsys, *words)[0] == 1
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 7
    scorer = Predictor(exported_model.find_export(str(exports)), num_devices=2)
    assert [len(scorer._models), len(set(map(id, scorer._models)))] == [2, 2]
    with pytest.raises(RequestError, match="--num_devices"):
        Predictor(exported_model.find_export(str(exports)), num_devices=3)  # The tests' TensorFlow started with two.


@pytest.mark.slow
def test_heat_maps_lie_over_the_images(exports, images, tmp_path, capsys):
    folder, odd = tmp_path / "maps", images / "deep" / "odd $(name) é.png"
    half = np.full([40, 80, 3], 90, np.uint8)
    half[:, :40] = (255, 0, 0)
    Image.fromarray(half).save(odd)
    (images / "bad.png").write_bytes(b"not an image")
    out = tmp_path / "rows.csv"
    code, _, _ = run(capsys, images, f"--model_dir={exports}", f"--explain={folder}", f"--out={out}", "--batch_size=3")
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert list(rows[0]) == ["path", "label", "p_fake", "error", "heatmap"]
    named = {row["path"]: row["heatmap"] for row in rows}
    assert named[str(images / "bad.png")] == ""
    assert sorted(filter(None, named.values())) == sorted(str(path) for path in folder.iterdir())
    assert len(set(named.values())) == len(rows) == 7
    picture = np.asarray(Image.open(named[str(odd)]))
    assert picture.shape == half.shape
    assert picture[:, :30].min() > 20, "light where the map is 1"
    assert np.abs(picture[:, 50:].astype(int) - half[:, 50:]).max() < 80


def test_an_export_without_heat_maps_is_one_error(exports, images, capsys, tmp_path):
    words = [images / "0.png", f"--model_dir={exports}/9", f"--explain={tmp_path}"]
    code, printed, err = run(capsys, *words)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert "--explain: expected an export with the signature explain" in err
    assert "older version" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model_dir={exports}"], "expected a PATH"),
        (["{images}/nothing*", "--model_dir={exports}"], "no file there"),
        (["{images}/0.png"], "expected --model_dir"),
        (["{images}/0.png", "--model_dir={images}"], "a folder without either"),
        (["{images}/0.png", "--model_dir={images}/none"], "no such folder"),
        (["{images}/0.png", "--model_dir={exports}", "--out=rows.txt"], ".csv or .jsonl"),
        (["{images}/0.png", "--model_dir={exports}", "--batch_size=0"], "at least 1"),
        (["{images}/0.png", "--model_dir={exports}", "--outt=a.csv"], "did you mean 'out'"),
        (["{images}/0.png", "--model_dir={exports}", "--threshold=2"], "from 0 to 1"),
        (["{images}/0.png", "--model_dir={exports}", "--threshold=0.4", "--explain=maps"], "leave one of them out"),
        (["{images}/0.png", "--model_dir={three}", "--threshold=0.4"], "a model of two classes"),
        (["{images}/0.png", "--model_dir={exports}", "--explain=s3://maps"], "--explain"),
    ],
)
def test_wrong_requests(exports, three, images, capsys, words, said):
    filled = [word.format(exports=exports, three=three, images=images) for word in words]
    assert said in refusal(capsys, predict.main, *filled)


def test_a_job_is_told_where_its_export_is(exports, images, capsys, tmp_path):
    (tmp_path / "job/export").mkdir(parents=True)
    (tmp_path / "job/export/best").symlink_to(exports)
    said = refusal(capsys, predict.main, str(images / "0.png"), f"--model_dir={tmp_path}/job")
    assert f"received a job; did you mean '{tmp_path}/job/export/best'?" in said


def test_damaged_exports(exports, tmp_path):
    broken = tmp_path / "1"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"rubbish")
    with pytest.raises(RequestError, match=r"deepdetect\.json"):
        exported_model.find_export(str(broken))
    (broken / "assets.extra").mkdir()
    metadata = (exports / "120" / "assets.extra" / "deepdetect.json").read_text()
    (broken / "assets.extra" / "deepdetect.json").write_text(metadata)
    with pytest.raises(RequestError, match="serving_default"):
        Predictor(exported_model.find_export(str(tmp_path)))
    (broken / "assets.extra" / "deepdetect.json").write_text('{"class_names": ["Fake", "Real"]}')
    with pytest.raises(RequestError, match="positive_class"):
        exported_model.find_export(str(broken))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "said"),
    [(["Fake", "Real", "Drawn"], "which has 2, received"), (["Fake", "Photo"], "whose answer is 'Real'")],
)
def test_class_names_that_are_not_those_of_the_model(exports, images, tmp_path, capsys, names, said):
    shutil.copytree(exports / "120", tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "deepdetect.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_names": names}))
    line = refusal(capsys, predict.main, f"--model_dir={tmp_path / '1'}", images)
    assert "name the classes of its model" in line
    assert said in line


def test_wrong_requests_are_answered_before_tensorflow():
    code = (
        "import sys, trainer.predict as p, trainer.evaluate as e, trainer.core.cli as f\n"
        "codes = f.run_command(p.main, ['x.png', '--model_dir=none']), f.run_command(e.main, ['--nonsense'])\n"
        "sys.exit(codes != (2, 2) or 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
