"""Videos through the command: made and decoded by OpenCV, scored by an export whose answers are known beforehand."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from trainer import predict
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.serving import video

cv2 = pytest.importorskip("cv2")

REDS = [250, 230, 210, 190, 30, 20, 10, 10, 240, 10]  # One a second below, at 5 frames a second.


def write_video(path: Path, reds: list[int], *, codec: str = "MJPG", rate: float = 5.0, side: int = 32) -> str:
    """Write five frames of each red, whose middle is grey and changes, so that a frame is told from the next one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (side, side))
    assert writer.isOpened()
    for number in range(5 * len(reds)):
        frame = np.zeros([side, side, 3], np.uint8)
        frame[..., 2] = reds[number // 5]
        frame[12:20, 12:20] = 5 * number
        writer.write(frame)
    writer.release()
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of two videos in different forms, an image and a text."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.avi", REDS)
    write_video(folder / "deep" / "b.MP4", REDS[:4], codec="mp4v")
    write_image(folder / "image.png", (255, 0, 0))
    (folder / "notes.txt").write_text("no video")
    return folder


def run(capsys, *words):
    return answer(capsys, predict.main, "--video", *words)


def rows_of(path):
    return list(csv.DictReader(io.StringIO(Path(path).read_text())))


def frames_scored_as_images(path, model, every):
    """Return p_fake of every N-th frame, decoded by OpenCV here and given to the export as pixels."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    serve = tf.saved_model.load(model).signatures["serve_images"]
    return serve(images=tf.constant(np.stack(frames[::every])))["p_fake"].numpy()


def test_a_folder_of_videos(model, folder, tmp_path, capsys):
    out, frames_out = tmp_path / "rows.csv", tmp_path / "frames.jsonl"
    code, printed, err = run(capsys, folder, f"--model_dir={model}", f"--out={out}", f"--frames_out={frames_out}",
                             "--batch_size=3", "--top_k=2")  # fmt: skip
    assert (code, printed) == (0, "")
    assert "scored 2 videos" in err
    rows, frames = rows_of(out), [json.loads(line) for line in frames_out.read_text().splitlines()]
    assert list(rows[0]) == ["path", "label", "p_fake", "p_fake_top", "frames", "seconds", "error"]
    assert [row["path"] for row in rows] == [f"{folder}/a.avi", f"{folder}/deep/b.MP4"]
    for row, reds, label in zip(rows, (REDS, REDS[:4]), ("Real", "Fake"), strict=True):
        expected = frames_scored_as_images(row["path"], model, 5)
        assert np.abs(expected - np.array(reds) / 255).max() < 0.2, "the test's own reading"
        own = [frame for frame in frames if frame["path"] == row["path"]]
        assert [frame["frame"] for frame in own] == list(range(0, 5 * len(reds), 5))
        assert [frame["seconds"] for frame in own] == list(range(len(reds)))
        assert [frame["p_fake"] for frame in own] == pytest.approx(expected, abs=1e-6)
        assert [frame["label"] for frame in own] == ["Fake" if p >= 0.5 else "Real" for p in expected]
        assert float(row["p_fake"]) == pytest.approx(expected.mean(), abs=1e-6)
        assert float(row["p_fake_top"]) == pytest.approx(np.sort(expected)[-2:].mean(), abs=1e-6)
        assert (row["label"], row["error"]) == (label, "")
        assert (int(row["frames"]), float(row["seconds"])) == (len(reds), len(reds))


def test_sampling_and_threshold(model, folder, tmp_path, capsys):
    out, path = tmp_path / "rows.csv", folder / "a.avi"
    words = (path, f"--model_dir={model}", f"--out={out}")
    everything = frames_scored_as_images(path, model, 1)
    for more, expected, label in (
        (("--every_n_frames=1", "--threshold=0.4"), everything, "Fake"),
        (("--every_n_frames=7", "--num_devices=2", "--batch_size=1"), everything[::7], "Real"),
        (("--every_n_frames=2", "--max_frames=6"), everything[:12:2], "Fake"),
    ):
        assert run(capsys, *words, *more)[0] == 0
        (row,) = rows_of(out)
        assert int(row["frames"]) == len(expected)
        assert float(row["p_fake"]) == pytest.approx(expected.mean(), abs=1e-6)
        top = np.sort(expected)[::-1][: -(-len(expected) // 10)]  # A tenth, rounded up.
        assert float(row["p_fake_top"]) == pytest.approx(top.mean(), abs=1e-6)
        assert row["label"] == label


def test_broken_videos_have_rows_and_the_others_go_on(model, folder, tmp_path, capsys):
    whole = (folder / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.mp4").write_bytes((folder / "deep" / "b.MP4").read_bytes()[:2000])
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "text.webm").write_text("no video")
    (tmp_path / "whole.avi").write_bytes(whole)
    out = tmp_path / "rows.jsonl"
    code, _, err = run(capsys, tmp_path, tmp_path / "gone.mov", f"--model_dir={model}", f"--out={out}")
    assert code == 1
    assert "5 of 6 videos could not be scored" in err
    rows = {Path(row["path"]).name: row for row in map(json.loads, out.read_text().splitlines())}
    assert rows["whole.avi"]["error"] is None
    for name in ("cut.mp4", "empty.mkv", "text.webm"):
        assert "not a video that OpenCV can read" in rows[name]["error"]
        assert (rows[name]["label"], rows[name]["p_fake"], rows[name]["frames"]) == (None, None, 0)
    assert rows["gone.mov"]["error"] == "No such file or directory"
    cut = rows["cut.avi"]  # The readable part is reported, next to the error.
    assert "of about 50 frames" in cut["error"]
    assert 0 < cut["frames"] < 10
    assert cut["p_fake"] > rows["whole.avi"]["p_fake"]


def test_three_classes_and_a_table(folder, tmp_path, capsys):
    three = write_export(tmp_path / "1", ["Fake", "Real", "Drawn"])
    code, printed, _ = run(capsys, folder / "a.avi", f"--model_dir={three}")
    assert code == 0
    heads, cells = (line.split() for line in printed.splitlines())
    assert heads == ["label", "p_fake", "p_fake_top", "frames", "seconds", "p_Fake", "p_Real", "p_Drawn", "path"]
    assert sum(map(float, cells[5:8])) == pytest.approx(1.0, abs=1e-3)


def test_large_frames_are_never_many_at_a_time(tmp_path):
    clip = video.Video(write_video(tmp_path / "large.avi", [200] * 2, side=2048), 1, 0)
    sizes, decoded = [], []
    for numbers, images in clip.batches(8):
        sizes.append(images.nbytes)
        decoded.append(clip.decoded - numbers[-1])
    clip.close()
    assert max(sizes) <= 32 * 2**20
    assert len(sizes) == 5  # Two frames of 12 MB each.
    assert max(decoded) <= 2, "frames are decoded when they are wanted"


def test_how_many_frames_are_the_top():
    def top(text, frames):
        return video.Sampling(0, 0, text, 1, 0.0).top_of(frames)

    assert [top("10%", frames) for frames in (1, 10, 11, 100)] == [1, 1, 2, 10]
    assert [top("3", frames) for frames in (1, 3, 10)] == [1, 3, 3]
    assert top("100%", 7) == 7
    for wrong in ("0", "0%", "101%", "-1", "ten", "", "1.5", "nan%"):
        with pytest.raises(RequestError, match="--top_k"):
            top(wrong, 5)


def test_a_video_in_a_bucket(model, folder, bucket, tmp_path, capsys):
    files.write_bytes(f"{bucket}/clips/a.avi", (folder / "a.avi").read_bytes())
    files.write_bytes(f"{bucket}/clips/readme.txt", b"")
    outs = []
    for where in (f"{bucket}/clips", f"{folder}/a.avi"):
        assert run(capsys, where, f"--model_dir={model}", f"--out={tmp_path}/rows.csv")[0] == 0
        outs.append(rows_of(tmp_path / "rows.csv"))
    assert [row["path"] for row in outs[0]] == [f"{bucket}/clips/a.avi"]
    assert [row["p_fake"] for row in outs[0]] == [row["p_fake"] for row in outs[1]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video", "{folder}/deep", "--top_k=0"], "--top_k"),
        (["--video", "{folder}/deep", "--explain=maps"], "expected images"),
        (["--video", "{folder}/*.txt"], "no .mp4/.avi"),
        (["--video", "{folder}/deep", "--frames_out=frames.txt"], "--frames_out"),
        (["{folder}/deep", "--frames_out=frames.csv"], "--video"),
        (["{folder}/deep", "--max_frames=3"], "--video"),
    ],
)
def test_wrong_requests(model, folder, capsys, words, said):
    filled = [word.format(folder=folder) for word in words]
    assert said in refusal(capsys, predict.main, *filled, f"--model_dir={model}")


def test_without_opencv_the_command_says_how_to_get_it(model, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    line = refusal(capsys, predict.main, "--video", folder, f"--model_dir={model}")
    assert "pip install -e '.[video]'" in line


def test_a_video_among_images_is_told_how(model, folder, capsys):
    code, _, err = answer(capsys, predict.main, folder / "a.avi", f"--model_dir={model}")
    assert code == 1
    assert "videos need --video" in err
