"""From videos to scores: one command cuts the faces, one trains on them, one scores new videos by the same rule."""

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.helpers import jobs, talking_heads
from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export
from trainer import predict, prepare_data
from trainer.data.faces import crop_rule, detector

RULE = {"detector": detector.NAME, "detector_version": "0.6.0", "margin": 0.3, "size": 0, "align": False,
        "encode": "png", "jpeg_quality": 95}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return an export whose p_fake is the mean red of what it is given, trained on crops by RULE, as it says."""
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"], faces=RULE)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a folder of a frame with one person, one with two (the second one in red), and one with nobody."""
    folder = tmp_path_factory.mktemp("pictures")
    one = talking_heads.frame(0, "Real", 20, 15)
    other = talking_heads.frame(1, "Real", 60, 15)
    other[..., 1:] //= 2
    for name, picture in (("one", one), ("two", np.concatenate([one, other], axis=1)), ("zero", one[:60, :60])):
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def scores(capsys, *words):
    code, out, err = answer(capsys, predict.main, *words)
    return code, out, err


def rows_of(path):
    return list(csv.DictReader(io.StringIO(Path(path).read_text())))


def red(content):
    """Return p_fake of the export above for an image."""
    return np.asarray(Image.open(io.BytesIO(content)).resize((16, 16)))[..., 0].mean() / 255


@pytest.mark.slow
def test_images_are_scored_by_the_faces_in_them(model, pictures, tmp_path, capsys):
    for several in ("highest", "mean", "each"):
        out = tmp_path / f"{several}.csv"
        code, _, err = scores(capsys, f"--model_dir={model}", f"--out={out}", pictures, f"--several_faces={several}")
        assert code == 1
        assert "1 of" in err
    each, mean, highest = (rows_of(tmp_path / f"{name}.csv") for name in ("each", "mean", "highest"))
    assert [row["faces"] for row in each] == ["1", "2", "2", "0"]
    assert [row["faces"] for row in highest] == [row["faces"] for row in mean] == ["1", "2", "0"]
    assert "no face was found" in each[3]["error"]
    assert each[3]["p_fake"] == each[3]["x0"] == ""
    two = [float(row["p_fake"]) for row in each[1:3]]
    assert abs(two[0] - two[1]) > 0.01
    assert float(highest[1]["p_fake"]) == max(two)
    assert float(mean[1]["p_fake"]) == pytest.approx(sum(two) / 2)
    assert {int(row["x0"]) // talking_heads.WIDTH for row in each[1:3]} == {0, 1}
    picture = np.asarray(Image.open(pictures / "one.png"))
    ((face, content),) = crop_rule.Cropper(crop_rule.CropRule(**RULE)).crops(picture)
    assert float(each[0]["p_fake"]) == pytest.approx(red(content), abs=0.02)
    assert [int(each[0][name]) for name in ("x0", "y0", "x1", "y1")] == [round(value) for value in face.box]


@pytest.mark.slow
def test_whole_images_are_scored_on_request_and_by_models_without_a_rule(model, pictures, tmp_path, capsys):
    plain = write_export(tmp_path / "plain" / "1", ["Fake", "Real"])
    outs = []
    for words in ((f"--model_dir={model}", "--faces=none"), (f"--model_dir={plain}",)):
        code, out, _ = scores(capsys, *words, pictures)
        assert code == 0
        outs.append(out)
    assert outs[0] == outs[1]
    assert "face" not in outs[0].splitlines()[0]
    assert "--faces: expected a model of face crops" in refusal(
        capsys, predict.main, f"--model_dir={plain}", "--faces=required", pictures
    )
    assert "--explain: expected --faces=none" in refusal(
        capsys, predict.main, f"--model_dir={model}", f"--explain={tmp_path}/maps", pictures
    )


def test_a_rule_of_another_detector_is_refused(pictures, tmp_path, capsys):
    other = write_export(tmp_path / "1", ["Fake", "Real"], faces={**RULE, "detector": "later"})
    assert "received later" in refusal(capsys, predict.main, f"--model_dir={other}", pictures)
    damaged = write_export(tmp_path / "2", ["Fake", "Real"], faces={"detector": "later"})
    assert "crop rule" in refusal(capsys, predict.main, f"--model_dir={damaged}", pictures)


@pytest.mark.slow
def test_a_video_of_which_some_frames_have_a_face(model, tmp_path, capsys):
    wall = np.full([talking_heads.HEIGHT, talking_heads.WIDTH, 3], 128, np.uint8)
    shown = [talking_heads.frame(0, "Real", 20, 15)] * 20 + [wall] * 10
    talking_heads.write_frames(tmp_path / "in" / "a.avi", shown)
    talking_heads.write_frames(tmp_path / "in" / "b.avi", [wall] * 20)
    words = [f"--model_dir={model}", "--video", f"--out={tmp_path}/rows.csv", f"--frames_out={tmp_path}/frames.csv"]
    assert scores(capsys, *words, tmp_path / "in")[0] == 1
    of_a, of_b = rows_of(tmp_path / "rows.csv")
    assert (of_a["frames"], of_a["error"]) == ("2", "")
    assert "no face was found in its 2 frames" in of_b["error"]
    frames = rows_of(tmp_path / "frames.csv")
    assert [row["faces"] for row in frames] == ["1", "1", "0", "0", "0"]
    assert float(of_a["p_fake"]) == pytest.approx(np.mean([float(row["p_fake"]) for row in frames[:2]]))
    assert all("no face" in row["error"] for row in frames[2:])


@pytest.mark.slow
def test_cut_train_and_score_a_new_video(tmp_path, capsys):
    videos, crops, job = tmp_path / "videos", tmp_path / "crops", tmp_path / "job"
    for split, people in (("Train", range(4)), ("Validation", range(4, 6))):
        for person in people:
            for label in ("Fake", "Real"):
                talking_heads.write_video(videos / split / label / f"{person}.avi", person, label)
    cut = ["faces", f"--videos={videos}", f"--out={crops}", "--frames_per_video=5", "--size=64", "--workers=1"]
    assert answer(capsys, prepare_data.main, *cut)[0] == 0
    assert answer(capsys, prepare_data.main, "pack", f"--data_dir={crops}", f"--out={tmp_path}/packed")[0] == 0
    assert jobs.run_job(tmp_path / "packed", job, epochs=1, batch_size=10, export="best", augment="none") == 0
    (version,) = (job / "export" / "best").iterdir()
    rule = json.loads((version / "assets.extra" / "deepdetect.json").read_text())["faces"]
    assert rule == json.loads((crops / "faces.json").read_text())["rule"] == {**RULE, "size": 64}
    assert "crops of faces" in (version / "assets.extra" / "model_card.md").read_text()
    new = talking_heads.write_video(tmp_path / "new.avi", 9)
    words = ["--video", "--every_n_frames=5", f"--frames_out={tmp_path}/frames.csv", f"--out={tmp_path}/rows.csv"]
    assert scores(capsys, f"--model_dir={version}", *words, new)[0] == 0
    frames = rows_of(tmp_path / "frames.csv")
    assert [row["frame"] for row in frames] == ["0", "5", "10", "15"]
    for row in frames:
        left, top = talking_heads.place(int(row["frame"]))
        assert left < int(row["x0"]) < int(row["x1"]) < left + talking_heads.SIDE
        assert top < int(row["y0"]) < int(row["y1"]) <= top + talking_heads.SIDE + 8
    # The same frame as a crop of the first command, and as a whole image, has the same score.
    out = tmp_path / "again"
    cut = ["faces", f"--videos={tmp_path}/one", f"--out={out}", "--size=64", "--workers=1"]
    (tmp_path / "one").mkdir()
    capture = cv2.VideoCapture(str(new))
    Image.fromarray(capture.read()[1][..., ::-1]).save(tmp_path / "one" / "frame.png")
    assert answer(capsys, prepare_data.main, *cut)[0] == 0
    for words in (["--faces=none", str(out / "frame.png")], [str(tmp_path / "one" / "frame.png")]):
        assert scores(capsys, f"--model_dir={version}", *words, f"--out={tmp_path}/image.csv")[0] == 0
        (row,) = rows_of(tmp_path / "image.csv")
        assert float(row["p_fake"]) == pytest.approx(float(frames[0]["p_fake"]), abs=1e-6)
