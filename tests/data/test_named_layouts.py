"""The trees and files of published sets, generated in their documented forms: labels, methods, identities, splits."""

import json

import pytest

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.data import manifest, split_report


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(root)


def read_all(root, **settings):
    return {split.name: split for split in manifest.read_all_splits(root, LayoutConfig(**settings))}


def line_of(root, **settings):
    return split_report.of_splits(root, manifest.read_all_splits(root, LayoutConfig(**settings)))


PAIRS = [(f"{first:03d}", f"{first + 1:03d}") for first in range(0, 40, 2)]


def faceforensics(root, published=True):
    videos = []
    for first, second in PAIRS:
        videos += [f"original_sequences/youtube/c23/frames/{one}" for one in (first, second)]
        videos += [f"manipulated_sequences/{method}/c23/frames/{one}" for method in ("Deepfakes", "FaceSwap")
                   for one in (f"{first}_{second}", f"{second}_{first}")]  # fmt: skip
    names = [f"{video}/{frame:04d}.png" for video in videos for frame in range(2)]
    others = ["manipulated_sequences/Deepfakes/c23/masks/000_001/0000.png",
              "original_sequences/youtube/c23/videos/000.mp4",
              "original_sequences/actors/c23/frames/01__exit_phone_room/0000.png"]  # fmt: skip
    data = touch(root, *names, *others)
    if published:
        for name, pairs in (("train", PAIRS[:14]), ("val", PAIRS[14:17]), ("test", PAIRS[17:])):
            (root / "splits").mkdir(exist_ok=True)
            (root / f"splits/{name}.json").write_text(json.dumps(pairs))
    return data


def test_faceforensics_with_its_published_splits(tmp_path):
    data = faceforensics(tmp_path)
    splits = read_all(data)
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"Fake": 112, "Real": 56}, "Validation": {"Fake": 24, "Real": 12}, "Test": {"Fake": 24, "Real": 12},
    }  # fmt: skip
    test = splits["Test"]
    assert set(test.columns["method"]) == {"", "Deepfakes", "FaceSwap"}
    assert set(test.columns["source"]) == {"034", "036", "038"}
    assert len(set(test.columns["video"])) == 18
    line = line_of(data)
    assert "splits as published" in line
    assert "no source is in two splits (identities in the names of FaceForensics++)" in line
    assert "not used: 2 files that are no images of the set" in line  # A mask and an actor.
    chosen = read_all(data, labels="real:original,fake:FaceSwap")
    assert chosen["Train"].counts == {"Fake": 56, "Real": 56}


def test_faceforensics_without_lists_is_drawn_by_identity(tmp_path):
    data = faceforensics(tmp_path, published=False)
    splits = read_all(data, layout="ffpp")
    sources = [set(split.columns["source"]) for split in splits.values()]
    assert list(splits) == ["Train", "Test"]
    assert not sources[0] & sources[1]
    assert splits["Test"].counts == {"Fake": 16, "Real": 8}
    assert "no published splits" in line_of(data)
    (tmp_path / "train.json").write_text("{}")
    (tmp_path / "val.json").write_text("[]")
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(RequestError, match=r"a published list of pairs of identities, .* of another form"):
        read_all(data)


def celebdf(root):
    videos = [f"Celeb-real/id{who}_{number:04d}" for who in range(12) for number in range(2)]
    videos += [f"Celeb-synthesis/id{who}_id{(who + 1) % 12}_{number:04d}" for who in range(12) for number in range(2)]
    videos += [f"YouTube-real/{number:05d}" for number in range(6)]
    return touch(root, *(f"{video}/{frame}.jpg" for video in videos for frame in range(2)))


def test_celebdf_with_its_published_test_videos(tmp_path):
    data = celebdf(tmp_path)
    (tmp_path / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00003.mp4\n1 Celeb-real/id1_0000.mp4\n0 Celeb-synthesis/id1_id2_0001.mp4\n"
    )
    splits = read_all(data)
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"Fake": 46, "Real": 56}, "Test": {"Fake": 2, "Real": 4},
    }  # fmt: skip
    assert splits["Test"].columns["source"] == ["id1", "id1", "id1", "id1", "YouTube-real/00003", "YouTube-real/00003"]
    train, validation = manifest.read_train_and_validation(data, 0.2, 0)
    assert not set(train.columns["source"]) & set(validation.columns["source"])
    (tmp_path / "List_of_testing_videos.txt").write_text("nothing")
    with pytest.raises(RequestError, match=r"expected lines such as 1 YouTube-real/00170.mp4"):
        read_all(data)


def test_celebdf_without_its_list_is_drawn_by_identity(tmp_path):
    splits = read_all(celebdf(tmp_path))
    sources = [set(split.columns["source"]) for split in splits.values()]
    assert not sources[0] & sources[1]


def test_dfdc_by_metadata(tmp_path):
    for part in range(2):
        folder = tmp_path / f"dfdc_train_part_{part}"
        facts = {}
        for number in range(6):
            real, fake = f"r{part}{number}.mp4", f"f{part}{number}.mp4"
            facts[real] = {"label": "REAL", "split": "train" if number else "test"}
            facts[fake] = {"label": "FAKE", "split": "train" if number else "test", "original": real}
            touch(folder, f"r{part}{number}/0.png", f"f{part}{number}.mp4/0.png")
        touch(folder, "unknown/0.png")
        (folder / "metadata.json").write_text(json.dumps(facts))
    data = str(tmp_path)
    splits = read_all(data)
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"Fake": 10, "Real": 10}, "Test": {"Fake": 2, "Real": 2},
    }  # fmt: skip
    assert splits["Test"].columns["source"] == ["r00", "r10", "r00", "r10"]
    assert "not used: 2 files that are no images of the set" in line_of(data)
    assert len(read_all(f"{data}/dfdc_train_part_0")["Train"]) == 10
    (tmp_path / "dfdc_train_part_1/metadata.json").write_text('{"a.mp4": {"label": "odd"}}')
    with pytest.raises(RequestError, match=r"expected metadata.json of the DFDC, .* of another form"):
        read_all(data)


def test_deepfakebench(tmp_path):
    def videos(kind, names):
        return {
            name: {"label": kind, "frames": [f"FF++\\{kind}\\{name}\\{frame}.png" for frame in range(2)]}
            for name in names
        }

    content = {"FaceForensics++": {
        "FF-real": {"train": {"c23": videos("FF-real", ["000", "001"])}, "test": {"c23": videos("FF-real", ["002"])}},
        "FF-DF": {"train": {"c23": videos("FF-DF", ["000_001"])}, "test": {"c23": videos("FF-DF", ["002_003"])}},
    }}  # fmt: skip
    touch(tmp_path, "FF++/FF-real/000/0.png")
    path = tmp_path / "json/set.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    splits = read_all(str(path))
    assert splits["Train"].counts == {"Fake": 2, "Real": 4}
    assert splits["Train"].columns["source"] == ["000"] * 6
    assert splits["Test"].columns == {
        "source": ["002"] * 4, "video": ["FF-DF/002_003"] * 2 + ["FF-real/002"] * 2, "method": ["FF-DF"] * 2 + [""] * 2,
    }  # fmt: skip
    assert splits["Train"].path(2) == f"{tmp_path}/FF++/FF-real/000/0.png"
    path.write_text('{"set": [1]}')
    with pytest.raises(RequestError, match="expected a JSON file of DeepfakeBench"):
        read_all(str(path))


def test_a_layout_that_does_not_fit_is_refused(tmp_path):
    data = touch(tmp_path, "train/Fake/0.png", "train/Real/0.png")
    for layout in ("ffpp", "celebdf", "dfdc", "deepfakebench", "list"):
        with pytest.raises(RequestError, match=rf"--layout={layout}: expected"):
            read_all(data, layout=layout)
