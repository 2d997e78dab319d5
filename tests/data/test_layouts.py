"""Data as people have it: folders under other names, flat or one level off, and lists; one line says what was taken."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from trainer.core.config import LAYOUTS, LayoutConfig, from_flat
from trainer.core.errors import RequestError
from trainer.data import manifest, split_report
from trainer.data.layouts import sources


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(root)


def numbered(folder, count, classes=("Fake", "Real")):
    return [f"{folder}/{label}/{number}.jpg".lstrip("/") for label in classes for number in range(count)]


def read_all(root, **settings):
    return {split.name: split for split in manifest.read_all_splits(root, LayoutConfig(**settings))}


def line_of(root, **settings):
    return split_report.of_splits(root, manifest.read_all_splits(root, LayoutConfig(**settings)))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", "VALID", "Testing"),
        ("TRAIN", "dev", "eval"),
        ("Train", "Validation", "Test"),
    ],
)
def test_splits_by_any_usual_name_and_case(tmp_path, train, validation, test):
    root = touch(tmp_path, *numbered(train, 4), *numbered(f"{validation}", 2), *numbered(test, 1), "masks/x.png")
    splits = read_all(root)
    assert {name: split.counts["Fake"] for name, split in splits.items()} == {"Train": 4, "Validation": 2, "Test": 1}
    assert splits["Train"].names[0] == f"{train}/Fake/0.jpg"
    assert manifest.read_split(root, "Test").path(0) == f"{root}/{test}/Fake/0.jpg"
    assert manifest.has_split(root, "Validation")
    assert len(manifest.read_train_and_validation(root, 0.5, 0)[1]) == 4


def test_exact_names_are_read_as_ever(tmp_path):
    root = touch(tmp_path, *numbered("Train", 8), *numbered("Test", 2))
    assert read_all(root)["Train"].fingerprint == read_all(root, layout="exact")["Train"].fingerprint
    assert read_all(root)["Train"].origin is None
    renamed = touch(tmp_path / "other", *numbered("train", 8))
    splits = manifest.read_train_and_validation(root, 0.25, 3), manifest.read_train_and_validation(renamed, 0.25, 3)
    below = [[name.partition("/")[2] for name in one[1].names] for one in splits]
    assert below[0] == below[1]  # The same draw, whatever the folder's name.


def test_two_folders_for_one_split_are_refused(tmp_path):
    root = touch(tmp_path, *numbered("train", 2), *numbered("val", 1), *numbered("valid", 1))
    with pytest.raises(RequestError, match=r"one folder for Validation in .*, received 'val', 'valid'"):
        manifest.read_split(root, "Train")


def test_a_flat_folder_is_split_by_seed(tmp_path):
    root = touch(tmp_path, *numbered("", 40, ("0_real", "1_fake")), "masks/0.png", "notes.txt")
    splits = read_all(root)
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"0_real": 36, "1_fake": 36}, "Test": {"0_real": 4, "1_fake": 4},
    }  # fmt: skip
    assert not set(splits["Train"].names) & set(splits["Test"].names)
    assert splits["Test"].names != read_all(root, split_seed=1)["Test"].names
    assert splits["Test"].names == read_all(root)["Test"].names
    assert len(read_all(root, test_fraction=0.5)["Test"]) == 40
    assert "Test" not in read_all(root, test_fraction=0.0)
    assert len(manifest.read_split(root, "All")) == 80
    train, validation = manifest.read_train_and_validation(root, 0.25, 0)
    assert (len(train), len(validation)) == (54, 18)
    assert not {*train.names, *validation.names} & set(splits["Test"].names)
    line = split_report.of_training(root, train, validation)
    assert "Test: 0.1 of classes of folder" in line
    assert "drawn by --split_seed=0: 0_real 4, 1_fake 4; training never reads it" in line
    assert "not used, no class by their names; --labels takes them: 'masks' (1)" in line
    one = split_report.of_one(manifest.read_split(root, "Test"))
    assert "72 others are for Train; --split=All takes all" in one


def test_images_nested_to_any_depth_below_their_class(tmp_path):
    videos = [f"train/{label}/{part}/v{video}/{frame:04d}.png" for label in ("fake", "real") for part in "ab"
              for video in range(3) for frame in range(4)]  # fmt: skip
    train = manifest.read_split(touch(tmp_path, *videos), "Train")
    assert train.counts == {"fake": 24, "real": 24}
    assert len(set(train.columns["source"])) == 12


def test_classes_below_other_folders_are_found_and_named_as_methods(tmp_path):
    root = touch(
        tmp_path, *numbered("train/car", 3, ("0_real", "1_fake")), *numbered("train/cat", 2, ("0_real", "1_fake"))
    )
    train = manifest.read_split(root, "Train")
    assert train.counts == {"0_real": 5, "1_fake": 5}
    assert train.columns["method"] == [""] * 5 + ["car"] * 3 + ["cat"] * 2


def test_labels_say_which_folders_are_which_class(tmp_path):
    root = touch(tmp_path, *numbered("train", 4, ("original", "Deepfakes", "Face2Face", "masks")))
    labels = "real:original,fake:deepfakes|face2face"
    train = read_all(root, labels=labels)["Train"]
    assert train.counts == {"Fake": 8, "Real": 4}
    assert train.columns["method"] == ["Deepfakes"] * 4 + ["Face2Face"] * 4 + [""] * 4
    assert "not used, not in --labels: 'masks' (4)" in line_of(root, labels=labels)


@pytest.mark.parametrize("text", ["real", "real:", "real:a,fake:a", "real:a", "real:a|,fake:b"])
def test_wrong_labels_are_refused(tmp_path, text):
    root = touch(tmp_path, *numbered("train", 1))
    with pytest.raises(RequestError, match=r"--labels: expected class:value\|value,"):
        manifest.read_split(root, "Train", layout=LayoutConfig(labels=text))


def test_one_level_too_high_or_too_low_is_used_and_named(tmp_path):
    root = touch(tmp_path / "download/faces", *numbered("train", 4), *numbered("test", 1))
    assert f"data_dir is one level too high: '{root}' is used" in line_of(str(tmp_path / "download"))
    line = line_of(f"{root}/train")
    assert f"data_dir is one level too low: it is Train of '{root}', which is used" in line
    assert "Test: folder" in line
    assert len(manifest.read_split(f"{root}/test", "Test")) == 2
    with pytest.raises(RequestError, match=rf"did you mean --data_dir={root}\?"):
        manifest.read_split(f"{root}/train/Fake", "Train")
    touch(tmp_path / "download/other", *numbered("", 3))
    with pytest.raises(RequestError, match=r"expected one folder with splits or classes in .*, received 2"):
        manifest.read_split(str(tmp_path / "download"), "Train")


def test_classes_of_a_model_under_other_names(tmp_path):
    root = touch(tmp_path, *numbered("Test", 2, ("fake", "real")), *numbered("other/test", 1, ("0_real", "1_fake")))
    split = manifest.read_split(root, "Test", ["Fake", "Real"])
    assert (split.class_names, split.names[0]) == (("Fake", "Real"), "Test/fake/0.jpg")
    assert "classes taken as those of the model: fake as Fake, real as Real" in split_report.of_one(split)
    assert manifest.read_split(f"{root}/other", "Test", ["Fake", "Real"]).names == (
        "test/1_fake/0.jpg",
        "test/0_real/0.jpg",
    )


def write_list(root, text, name="list.csv"):
    (root / name).write_text(text)
    return str(root / name)


LIST = "image,target,set,video,generator\n" + "".join(
    f"img/{label}{number}.png,{label},{'train' if number < 6 else 'test'},v{label}{number // 2},"
    f"{'gan' if label == 'fake' else '-'}\n" for label in ("real", "fake") for number in range(8)
)  # fmt: skip


def test_a_list_by_guessed_columns(tmp_path):
    path = write_list(tmp_path, LIST)
    splits = read_all(path)
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"Fake": 6, "Real": 6}, "Test": {"Fake": 2, "Real": 2},
    }  # fmt: skip
    test = splits["Test"]
    assert test.names == ("img/fake6.png", "img/fake7.png", "img/real6.png", "img/real7.png")
    assert test.path(0) == f"{tmp_path}/img/fake6.png"
    assert test.columns == {"source": ["vfake3", "vfake3", "vreal3", "vreal3"], "method": ["gan", "gan", "", ""]}
    train, validation = manifest.read_train_and_validation(path, 0.3, 0)
    assert not set(train.columns["source"]) & set(validation.columns["source"])
    assert validation.counts == {"Fake": 2, "Real": 2}
    line = split_report.of_training(path, train, validation)
    assert (
        "columns: path is 'image', label is 'target', split is 'set', video is 'video', method is 'generator'" in line
    )
    assert "held out by seed 0, whole sources (column source of the data)" in line


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_a_list_in_other_forms_is_the_same(tmp_path, ending):
    header, *rows = [line.split(",") for line in LIST.splitlines()]
    path = tmp_path / f"list.{ending}"
    if ending == "tsv":
        path.write_text("\ufeff" + LIST.replace(",", "\t"))
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows))
    elif importlib.util.find_spec("pyarrow") is None:
        path.write_bytes(b"PAR1")
        with pytest.raises(RequestError, match=r"expected pyarrow, .* pip install 'deepdetect\[lists\]'"):
            read_all(str(path))
        return
    else:
        import pyarrow
        from pyarrow import parquet

        columns = zip(*rows, strict=True)
        parquet.write_table(pyarrow.table(dict(zip(header, map(list, columns), strict=True))), path)
    csv = read_all(write_list(tmp_path, LIST))
    assert {name: split.fingerprint for name, split in read_all(str(path)).items()} == {
        name: split.fingerprint for name, split in csv.items()
    }


def test_a_list_with_columns_paths_and_labels_of_its_own(tmp_path):
    text = f"a,b,c,weight\n{tmp_path}/x.png,Deepfakes,1,2\ny.png,original,2,1\ngs://bucket/z.png,original,3,1\nw.png,Other,3,1\n"
    path = write_list(tmp_path, text)
    settings = {"columns": "path:a,label:b", "labels": "real:original,fake:Deepfakes"}
    split = manifest.read_split(path, "All", layout=LayoutConfig(**settings))
    assert [split.path(number) for number in range(3)] == [
        f"{tmp_path}/x.png",
        "gs://bucket/z.png",
        f"{tmp_path}/y.png",
    ]
    line = split_report.of_one(split)
    assert "not used, not in --labels: 'Other' (1)" in line
    assert "the column 'weight' is not used: every image counts once" in line


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("a,b\n1,2\n", {}, "--columns: expected columns for path and label, received the columns 'a', 'b'"),
        ("path,label\nx,1\ny,0\n", {}, "--labels=real:0,fake:1"),
        ("path,label\nx,real\ny,odd\n", {}, "received 'odd'; say which is which"),
        ("path,label,split\nx,real,a\n", {}, "expected train, val or test in the column split"),
        ("path,label\nx,real\nx,fake\n", {}, "received two different ones for 'x'"),
        ("path,label\nx,real,3\n", {}, "expected at most 2 cells in each row"),
        ("path,label\nx,real\n", {"columns": "path:q"}, "expected one of the columns 'path', 'label', received 'q'"),
        (
            "path,label,weight\nx,real,2\n",
            {"columns": "weight:weight"},
            "each of path, label, split, video",
        ),
        ("path,label\nx,real\n", {"columns": "way:path"}, "--columns: expected meaning:name"),
        ("path,label\n", {}, "expected images in list .*, received none"),
        ("path,label,split\nx,real,test\ny,fake,test\n", {}, "expected images of Train in list .*, received Test"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text, settings, said):
    with pytest.raises(RequestError, match=said):
        manifest.read_train_and_validation(write_list(tmp_path, text), 0.1, 0, layout=LayoutConfig(**settings))


def test_a_list_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"expected a list file, received '.*nowhere.csv', which does not exist"):
        manifest.read_split(str(tmp_path / "nowhere.csv"), "Train")


@pytest.mark.parametrize("seed", range(2))
def test_held_out_parts_share_no_source_and_keep_their_shares(tmp_path, seed):
    random = np.random.default_rng(seed)
    frames = {
        f"{label}/{label}v{video:02d}": int(random.integers(1, 12)) for label in ("Fake", "Real") for video in range(40)
    }
    names = [f"{video}/{frame:04d}.png" for video, count in frames.items() for frame in range(count)]
    root = touch(tmp_path, *(f"Train/{name}" for name in names))
    train, validation = manifest.read_train_and_validation(root, 0.2, seed)
    shown = [{name.rpartition("/")[0] for name in split.names} for split in (train, validation)]
    assert not shown[0] & shown[1]
    for label in ("Fake", "Real"):
        whole = train.counts[label] + validation.counts[label]
        assert abs(validation.counts[label] - 0.2 * whole) <= 6
    assert "whole sources (file names: one folder a video" in validation.held_out
    assert "no source is in two splits" in split_report.of_splits(root, [train, validation])
    again = manifest.read_train_and_validation(root, 0.2, seed)[1]
    assert again.fingerprint == validation.fingerprint
    image = manifest.read_train_and_validation(root, 0.2, seed, layout=LayoutConfig(split_by="image"))[1]
    assert image.fingerprint != validation.fingerprint
    assert "whole sources" not in image.held_out


def test_a_class_of_one_source_is_drawn_by_image_and_said(tmp_path):
    root = touch(tmp_path, *(f"Train/{label}/v{video}/{frame:04d}.png" for label, videos in (("Fake", 1), ("Real", 5))
                             for video in range(videos) for frame in range(8)))  # fmt: skip
    _, validation = manifest.read_train_and_validation(root, 0.2, 0)
    assert validation.counts["Fake"] == 2
    assert validation.counts["Real"] == 8
    assert "all images of Fake come from one source, which is therefore in both" in validation.held_out


def test_an_identity_of_both_classes_stays_together(tmp_path):
    rows = [f"{label}{number}.png,{label},id{number // 3}" for label in ("real", "fake") for number in range(60)]
    path = write_list(tmp_path, "\n".join(["path,label,identity", *rows]))
    splits = read_all(path, test_fraction=0.25)
    known = [set(split.columns["source"]) for split in splits.values()]
    assert not known[0] & known[1]
    assert splits["Test"].counts == {"Fake": 15, "Real": 15}


def test_shared_sources_of_given_splits_are_named(tmp_path):
    rows = [
        f"{label}{n}.png,{label},{'train' if n % 2 else 'test'},v{n // 2}"
        for label in ("real", "fake")
        for n in range(4)
    ]
    path = write_list(tmp_path, "\n".join(["path,label,split,source", *rows]))
    assert "2 sources of one name are in several splits, such as 'v0', 'v1' (column source of the data)" in line_of(
        path
    )


def test_the_source_of_a_split_without_a_rule_is_each_image(tmp_path):
    split = manifest.read_split(touch(tmp_path, *numbered("train", 3)), "Train")
    assert sources.of_split(split).numbers is None


def test_every_layout_is_a_choice_and_none_is_fixed():
    assert list(LAYOUTS)[:4] == ["auto", "exact", "folders", "list"]
    config = from_flat({"layout": "list"})
    assert config.layout.layout == "list"
    assert not {field.name for field in dataclasses.fields(LayoutConfig)} & config.decisive().keys()
