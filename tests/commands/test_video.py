"""Videos through the command: made and decoded by OpenCV, scored by an export whose answers are known beforehand."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import mp4
from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from trainer import predict
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.faces import video_file
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_three_classes_and_a_table(folder, tmp_path, capsys):
    three = write_export(tmp_path / "1", ["Fake", "Real", "Drawn"])
    code, printed, _ = run(capsys, folder / "a.avi", f"--model_dir={three}")
    assert code == 0
    heads, cells = (line.split() for line in printed.splitlines())
    assert heads == ["label", "p_fake", "p_fake_top", "frames", "seconds", "p_Fake", "p_Real", "p_Drawn", "path"]
    assert sum(map(float, cells[5:8])) == pytest.approx(1.0, abs=1e-3)


def test_large_frames_are_never_many_at_a_time(tmp_path):
    clip = video_file.Video(write_video(tmp_path / "large.avi", [200] * 2, side=2048), 1, 0)
    sizes, decoded = [], []
    for samples, images in clip.batches(8):
        sizes.append(images.nbytes)
        decoded.append(clip.decoded - samples[-1].number)
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


@pytest.mark.slow
def test_a_video_in_a_bucket(model, folder, bucket, tmp_path, capsys):
    files.write_bytes(f"{bucket}/clips/a.avi", (folder / "a.avi").read_bytes())
    files.write_bytes(f"{bucket}/clips/readme.txt", b"")
    outs = []
    page = f"--report={bucket}/scores.html"
    for where in (f"{bucket}/clips", f"{folder}/a.avi"):
        assert run(capsys, where, f"--model_dir={model}", f"--out={tmp_path}/rows.csv", page)[0] == 0
        outs.append(rows_of(tmp_path / "rows.csv"))
    assert [row["path"] for row in outs[0]] == [f"{bucket}/clips/a.avi"]
    assert [row["p_fake"] for row in outs[0]] == [row["p_fake"] for row in outs[1]]
    text = files.read_text(f"{bucket}/scores.html")  # Of the local one.
    assert f"{folder}/a.avi</td>" in text  # No link from a page in a bucket to a local file.
    assert text.count("data:image/jpeg") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video", "{folder}/deep", "--top_k=0"], "--top_k"),
        (["--video", "{folder}/deep", "--explain=maps"], "expected images"),
        (["--video", "{folder}/*.txt"], "videos (.mp4, .avi"),
        (["--video", "{folder}/deep", "--frames_out=frames.txt"], "--frames_out"),
        (["{folder}/deep", "--frames_out=frames.csv"], "--video"),
        (["{folder}/deep", "--report=scores.csv"], "ends in .html"),
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


# Time, not the number of frames, decides how often a picture counts.


def write_clip(path: Path, reds: list[int]) -> Path:
    """Write one frame of each red as MP4, 25 a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (32, 32))
    for red in reds:
        frame = np.zeros([32, 32, 3], np.uint8)
        frame[..., 2] = red
        writer.write(frame)
    writer.release()
    return path


def score(path, model, capsys, *words):
    """Return the row of a video, and the rows of its frames."""
    out, frames_out = path.with_suffix(".rows.jsonl"), path.with_suffix(".frames.jsonl")
    run(capsys, path, f"--model_dir={model}", f"--out={out}", f"--frames_out={frames_out}", *words)
    (row,) = map(json.loads, out.read_text().splitlines())
    return row, [json.loads(line) for line in frames_out.read_text().splitlines()]


def test_a_dense_part_of_a_video_counts_by_its_length(model, tmp_path, capsys):
    """A camera that records more while something moves: 60 s at one frame a second, 2 s at thirty."""
    path = write_clip(tmp_path / "clip.mp4", [20] * 60 + [250] * 60)
    mp4.set_frame_lengths(path, [(60, 1.0), (60, 1 / 30)])
    row, frames = score(path, model, capsys)
    assert (row["error"], row["frames"], row["label"]) == (None, 62, "Real")
    assert row["seconds"] == pytest.approx(62, abs=0.05)
    assert row["p_fake"] == pytest.approx((60 * 20 + 2 * 250) / 62 / 255, abs=0.02)
    assert row["p_fake_top"] == pytest.approx((2 * 250 + 5 * 20) / 7 / 255, abs=0.02)
    assert [frame["seconds"] for frame in frames] == pytest.approx(list(range(62)), abs=0.02)
    assert {frame["weight"] for frame in frames} == {1}


@pytest.mark.slow
def test_a_frame_that_stays_counts_for_each_second(model, tmp_path, capsys):
    """A recorded screen: 2 s of movement, whose last frame stays for 58 s."""
    path = write_clip(tmp_path / "clip.mp4", [250] * 60 + [20, 20])
    mp4.set_frame_lengths(path, [(60, 1 / 30), (1, 57.5), (1, 0.5)])
    row, frames = score(path, model, capsys)
    assert [(frame["frame"], frame["weight"]) for frame in frames] == [(0, 1), (30, 1), (60, 58)]
    assert row["p_fake"] == pytest.approx((2 * 250 + 58 * 20) / 60 / 255, abs=0.02)
    assert row["p_fake"] == pytest.approx(np.average([f["p_fake"] for f in frames], weights=[1, 1, 58]), abs=1e-6)
    assert row["p_fake_top"] == pytest.approx((2 * 250 + 4 * 20) / 6 / 255, abs=0.02)
    row, frames = score(path, model, capsys, "--max_frames=2")
    assert [frame["frame"] for frame in frames] == [0, 30]
    row, frames = score(path, model, capsys, "--every_n_frames=30")
    assert [(frame["frame"], frame["weight"]) for frame in frames] == [(0, 1), (30, 1), (60, 1)]
    assert [frame["seconds"] for frame in frames] == pytest.approx([0, 1, 2], abs=0.01)


@pytest.mark.parametrize("rate", [12.0, 24000 / 1001, 25.0, 30000 / 1001, 60.0])
def test_of_a_constant_rate_each_second_has_a_frame_at_its_begin(rate, tmp_path):
    for ending, codec in (("mkv", "MJPG"), ("mp4", "mp4v")):  # Matroska rounds its timestamps to milliseconds.
        path = tmp_path / f"clip.{ending}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (32, 32))
        for _ in range(round(5 * rate)):
            writer.write(np.zeros([32, 32, 3], np.uint8))
        writer.release()
        clip = video_file.Video(str(path), 0, 0)
        samples = [sample for batch, _ in clip.batches(8) for sample in batch]
        assert [sample.number for sample in samples] == [round(second * rate) for second in range(5)]
        assert {sample.weight for sample in samples} == {1}
        assert (clip.missing, clip.end) == ("", pytest.approx(round(5 * rate) / rate, abs=0.002))


def test_a_turned_video_is_turned(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5.0, (64, 32))
    frame = np.zeros([32, 64, 3], np.uint8)
    frame[:16, :32, 2] = 250  # Top left, which a turn by 90 degrees brings to the top right.
    writer.write(frame)
    writer.release()
    mp4.turn(path)
    ((_, images),) = video_file.Video(str(path), 0, 0).batches(1)
    assert images.shape == (1, 64, 32, 3)
    assert np.abs(images[0].astype(int) - np.rot90(frame[..., ::-1], -1)).mean() < 10


# Files that are no videos, whatever their name.


def png_of(red):
    return cv2.imencode(".png", np.full([32, 32, 3], (0, 0, red), np.uint8))[1].tobytes()


@pytest.mark.slow
def test_files_that_are_no_videos_say_what_they_are(model, folder, tmp_path, capsys):
    for name in ("a.avi", "clip.avi"):
        (tmp_path / name).write_bytes((folder / "a.avi").read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.avi\n")
    (tmp_path / "playlist.mov").write_text("#EXTM3U\n#EXTINF:3,\na.avi\n#EXT-X-ENDLIST\n")
    (tmp_path / "image.mp4").write_bytes(png_of(9))
    (tmp_path / "photo.mkv").write_bytes(cv2.imencode(".jpg", np.zeros([32, 32, 3], np.uint8))[1].tobytes())
    (tmp_path / "bitmap.avi").write_bytes(cv2.imencode(".bmp", np.zeros([32, 32, 3], np.uint8))[1].tobytes())
    (tmp_path / "text.mp4").write_text("\x1b[31mThis is a text that FFmpeg would draw." * 20)
    (tmp_path / "sound.mp4").write_bytes(b"ID3\x04" + bytes(200))
    mp4.write_cover_alone(tmp_path / "music.mp4", png_of(250))
    out = tmp_path / "rows.jsonl"
    code, _, _ = run(capsys, tmp_path, f"--model_dir={model}", f"--out={out}")
    rows = {Path(row["path"]).name: row for row in map(json.loads, out.read_text().splitlines())}
    errors = {name: row["error"] for name, row in rows.items()}
    assert code == 1
    assert (errors.pop("a.avi"), errors.pop("clip.avi")) == (None, None)
    for name, said in {
        "list.mp4": "a list of other files", "playlist.mov": "a list of other files", "image.mp4": "an image",
        "photo.mkv": "an image", "bitmap.avi": "an image", "text.mp4": "not a video that OpenCV can read",
        "sound.mp4": "sound", "music.mp4": "cover picture",
    }.items():  # fmt: skip
        assert said in errors.pop(name)
        assert (rows[name]["p_fake"], rows[name]["frames"]) == (None, 0)
    assert errors == {}


def test_the_container_decides_what_is_read_not_the_beginning(folder, tmp_path, monkeypatch):
    """FFmpeg's own whitelist, also where a user has options of his own and the list does not look like one."""
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1|format_whitelist;concat")
    monkeypatch.setattr(video_file, "_NO_VIDEOS", ())
    (tmp_path / "a.avi").write_bytes((folder / "a.avi").read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.avi\n")
    (tmp_path / "image.mp4").write_bytes(png_of(9))
    for name in ("list.mp4", "image.mp4"):
        with pytest.raises(OSError, match="not a video that OpenCV can read"):
            video_file.Video(str(tmp_path / name), 0, 0)
    video_file.Video(str(tmp_path / "a.avi"), 0, 0).close()


def test_a_video_with_a_cover_is_a_video(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [250] * 30)
    mp4.add_cover(path, png_of(0))
    ((samples, images),) = video_file.Video(str(path), 0, 0).batches(8)
    assert [sample.number for sample in samples] == [0, 25]
    assert images[..., 0].mean() > 200
