"""What images there are, listed the same by every process, and every folder that cannot be trained on refused."""

import os
import socket

import numpy as np
import pytest

from trainer.core.errors import RequestError
from trainer.data import class_folders, manifest, tfrecord


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(root)


def numbered(split, class_name, count):
    return [f"{split}/{class_name}/{number:04d}.jpg" for number in range(count)]


def test_sorted_by_class_then_name_any_extension(tmp_path):
    root = touch(tmp_path, "Train/Real/b.png", "Train/Real/a.jpg", "Train/Fake/z", "Train/Fake/10.webp",
                 "Train/Fake/9.JPEG", "Train/Real/c.tar.gz")  # fmt: skip
    split = manifest.read_split(root, "Train")
    assert split.class_names == ("Fake", "Real")
    assert split.names == ("Train/Fake/10.webp", "Train/Fake/9.JPEG", "Train/Fake/z", "Train/Real/a.jpg",
                           "Train/Real/b.png", "Train/Real/c.tar.gz")  # fmt: skip
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.labels.dtype == np.int32
    assert split.counts == {"Fake": 3, "Real": 3}
    assert len(split) == 6
    assert split.name == "Train"
    assert os.path.samefile(split.path(3), tmp_path / "Train/Real/a.jpg")


def test_the_order_in_which_the_disk_lists_does_not_matter(tmp_path, monkeypatch):
    root = touch(tmp_path, *numbered("Train", "Fake", 20), *numbered("Train", "Real/deep", 20), "Train/Real/x.jpg")
    before = manifest.read_split(root, "Train")
    walk, listdir = os.walk, os.listdir

    def backwards(*args, **options):
        for parent, folders, names in walk(*args, **options):
            folders.sort(reverse=True)
            yield parent, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    after = manifest.read_split(root, "Train")
    assert after.names == before.names
    assert after.fingerprint == before.fingerprint


def test_hidden_files_and_folders_and_stray_files_are_left_out(tmp_path):
    root = touch(tmp_path, "Train/Fake/a.jpg", "Train/Real/b.jpg", "Train/Fake/.DS_Store", "Train/Fake/.cache/c.jpg",
                 "Train/.ipynb_checkpoints/d.jpg", "Train/readme.txt")  # fmt: skip
    assert manifest.read_split(root, "Train").names == ("Train/Fake/a.jpg", "Train/Real/b.jpg")


def test_nested_folders_belong_to_their_class(tmp_path):
    root = touch(tmp_path, "Train/Fake/video1/f1.jpg", "Train/Fake/video1/deep/f2.jpg", "Train/Fake/a.jpg",
                 "Train/Real/b.jpg")  # fmt: skip
    split = manifest.read_split(root, "Train")
    assert split.names[:3] == ("Train/Fake/a.jpg", "Train/Fake/video1/deep/f2.jpg", "Train/Fake/video1/f1.jpg")
    assert split.labels.tolist() == [0, 0, 0, 1]
    assert all(os.path.isfile(split.path(index)) for index in range(len(split)))


def test_a_link_that_loops_ends_and_names_each_file_once(tmp_path):
    root = touch(tmp_path, "Train/Fake/sub/a.jpg", "Train/Fake/b.jpg", "Train/Real/c.jpg")
    (tmp_path / "Train/Fake/sub/loop").symlink_to(tmp_path / "Train/Fake", target_is_directory=True)
    assert manifest.read_split(root, "Train").counts == {"Fake": 2, "Real": 1}


def test_links_to_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "a.jpg", "b.jpg")
    root = touch(tmp_path / "set", "Train/Real/c.jpg")
    (tmp_path / "set/Train/Fake").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set/Train/Real/d.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    assert manifest.read_split(root, "Train").counts == {"Fake": 2, "Real": 2}


def test_odd_names_survive(tmp_path):
    odd = sorted(
        ["a b.jpg", "größe €.png", "new\nline.jpg", "-rf.jpg", "semi;colon&.jpg", "100%.jpg", "*.jpg", "日本.jpg"]
    )
    root = touch(tmp_path, *(f"Train/Fake/{name}" for name in odd), "Train/Real class/x.jpg")
    split = manifest.read_split(root, "Train")
    assert [name.removeprefix("Train/Fake/") for name in split.names[:-1]] == odd
    assert split.class_names == ("Fake", "Real class")
    assert all(os.path.isfile(split.path(index)) for index in range(len(split)))


def test_a_name_that_is_no_utf8_is_listed_and_fingerprinted(tmp_path):
    root = touch(tmp_path, "Train/Fake/a.jpg", "Train/Real/b.jpg")
    with open(os.fsencode(tmp_path) + b"/Train/Fake/\xff.jpg", "wb"):
        pass
    split = manifest.read_split(root, "Train")
    assert split.counts == {"Fake": 2, "Real": 1}
    assert os.path.isfile(split.path(1))
    assert len(split.fingerprint) == 64


def test_a_missing_split_is_refused(tmp_path):
    for root in (str(tmp_path), str(tmp_path / "absent")):
        with pytest.raises(RequestError, match=r"--data_dir: expected .* to hold Train/<class>/\* images"):
            manifest.read_split(root, "Train")
    (tmp_path / "Train").write_text("a file")
    with pytest.raises(RequestError, match="no folder"):
        manifest.read_split(str(tmp_path), "Train")


def test_fewer_than_two_classes_are_refused(tmp_path):
    root = touch(tmp_path, "Train/Fake/a.jpg")
    with pytest.raises(RequestError, match=r"at least two class folders .* received 1 \(Fake\)"):
        manifest.read_split(root, "Train")
    touch(tmp_path, "Test/a.jpg")
    with pytest.raises(RequestError, match=r"received 0 \(none\)"):
        manifest.read_split(root, "Test")


def test_an_empty_class_is_refused_by_name(tmp_path):
    root = touch(tmp_path, "Train/Fake/a.jpg", "Train/Real/.hidden")
    with pytest.raises(RequestError, match=r"empty class .*Train/Real"):
        manifest.read_split(root, "Train")


def test_three_classes(tmp_path):
    root = touch(tmp_path, "Train/b/1", "Train/a/1", "Train/a/2", "Train/c/1")
    split = manifest.read_split(root, "Train")
    assert split.class_names == ("a", "b", "c")
    assert split.labels.tolist() == [0, 0, 1, 2]
    assert split.counts == {"a": 2, "b": 1, "c": 1}


def test_expected_classes_keep_their_labels(tmp_path):
    root = touch(tmp_path, "Test/Fake/1", "Test/Real/1")
    assert manifest.read_split(root, "Test", ["Real", "Fake"]).labels.tolist() == [0, 1]
    assert manifest.read_split(root, "Test", ["Real", "Fake"]).names == ("Test/Real/1", "Test/Fake/1")
    split = manifest.read_split(root, "Test", ["Drawn", "Fake", "Real"])
    assert split.labels.tolist() == [1, 2]
    assert split.counts == {"Drawn": 0, "Fake": 1, "Real": 1}
    with pytest.raises(RequestError, match="received also Real"):
        manifest.read_split(root, "Test", ["Fake", "Other"])


def test_validation_is_read_when_it_is_there(tmp_path):
    root = touch(tmp_path, "Train/Fake/1", "Train/Real/2", "Validation/Fake/3", "Validation/Real/4")
    train, validation = manifest.read_train_and_validation(root, 0.5, 0)
    assert train.names == ("Train/Fake/1", "Train/Real/2")
    assert validation.names == ("Validation/Fake/3", "Validation/Real/4")
    assert (train.name, validation.name) == ("Train", "Validation")


def test_a_class_that_only_validation_knows_is_refused(tmp_path):
    root = touch(tmp_path, "Train/Fake/1", "Train/Real/2", "Validation/Fake/3", "Validation/Reel/4")
    with pytest.raises(RequestError, match=r"classes Fake, Real .* received also Reel"):
        manifest.read_train_and_validation(root, 0.5, 0)


@pytest.mark.parametrize("extra", ["Validation/Fake/3", "Validation/readme.txt", "Validation/Real/.hidden"])
def test_a_class_without_validation_images_is_refused(tmp_path, extra):
    root = touch(tmp_path, "Train/Fake/1", "Train/Real/2", extra)
    with pytest.raises(RequestError, match=r"received none of (Fake, )?Real"):
        manifest.read_train_and_validation(root, 0.5, 0)


def held_out(tmp_path, fraction, seed):
    return manifest.read_train_and_validation(str(tmp_path), fraction, seed)


@pytest.fixture
def without_validation(tmp_path):
    touch(tmp_path, *numbered("Train", "Fake", 40), *numbered("Train", "Real", 20), *numbered("Test", "Fake", 9),
          *numbered("Test", "Real", 9))  # fmt: skip
    return tmp_path


def test_without_validation_a_stratified_share_of_train_is_held_out(without_validation):
    train, validation = held_out(without_validation, 0.1, 0)
    assert validation.counts == {"Fake": 4, "Real": 2}
    assert train.counts == {"Fake": 36, "Real": 18}
    assert validation.name == "Validation"
    whole = manifest.read_split(str(without_validation), "Train")
    assert sorted(train.names + validation.names) == sorted(whole.names)  # Each once, and none of Test.
    assert list(train.names) == sorted(train.names)
    assert list(validation.names) == sorted(validation.names)
    for split in (train, validation):
        assert [name.split("/")[1] for name in split.names] == [split.class_names[label] for label in split.labels]


def test_the_held_out_share_is_decided_by_the_seed_alone(without_validation):
    first = held_out(without_validation, 0.2, 5)[1]
    assert held_out(without_validation, 0.2, 5)[1].fingerprint == first.fingerprint
    others = {held_out(without_validation, 0.2, seed)[1].names for seed in range(8)}
    assert len(others) == 8


def test_the_held_out_share_is_not_the_same_numbers_in_each_class(tmp_path):
    touch(tmp_path, *numbered("Train", "Fake", 50), *numbered("Train", "Real", 50))
    numbers = [name.split("/")[-1] for name in held_out(tmp_path, 0.2, 0)[1].names]
    assert numbers[:10] != numbers[10:]


def test_at_least_one_image_of_each_class_on_both_sides(tmp_path):
    touch(tmp_path, *numbered("Train", "Fake", 2), *numbered("Train", "Real", 3))
    for fraction in (0.01, 0.5, 0.99):
        train, validation = held_out(tmp_path, fraction, 0)
        assert min(train.counts.values()) >= 1
        assert min(validation.counts.values()) >= 1
        assert len(train) + len(validation) == 5


def test_a_class_of_one_cannot_be_divided(tmp_path):
    touch(tmp_path, *numbered("Train", "Fake", 9), "Train/Real/1.jpg")
    with pytest.raises(RequestError, match=r"at least two images of class 'Real' .* received 1"):
        held_out(tmp_path, 0.1, 0)


def test_a_fingerprint_tells_every_change(tmp_path):
    root = touch(tmp_path, *numbered("Train", "Fake", 4), *numbered("Train", "Real", 4))
    seen = {manifest.read_split(root, "Train").fingerprint}
    touch(tmp_path, "Train/Fake/more.jpg")
    seen.add(manifest.read_split(root, "Train").fingerprint)
    os.rename(tmp_path / "Train/Fake/more.jpg", tmp_path / "Train/Fake/name.jpg")
    seen.add(manifest.read_split(root, "Train").fingerprint)
    os.rename(tmp_path / "Train/Fake/name.jpg", tmp_path / "Train/Real/name.jpg")
    seen.add(manifest.read_split(root, "Train").fingerprint)
    seen.add(manifest.read_split(root, "Train", ["Real", "Fake"]).fingerprint)
    seen.add(manifest.read_split(root, "Train").select([0, 1, 2], "Train").fingerprint)
    assert len(seen) == 6
    labels = [np.array(one, np.int32) for one in ([0, 1], [1, 0], [0, 0])]
    assert len({manifest.Split("Train", "", ("A", "B"), ("a", "b"), one).fingerprint for one in labels}) == 3


def test_a_fingerprint_does_not_depend_on_where_the_set_lies(tmp_path):
    names = [*numbered("Train", "Fake", 3), *numbered("Train", "Real", 3)]
    one, two = (manifest.read_split(touch(tmp_path / place, *names), "Train") for place in ("a", "b/c"))
    assert one.fingerprint == two.fingerprint


def test_take(tmp_path):
    split = manifest.read_split(touch(tmp_path, *numbered("Train", "Fake", 3), *numbered("Train", "Real", 3)), "Train")
    taken = split.select(np.array([4, 0]), "Other")
    assert (taken.name, taken.names) == ("Other", ("Train/Real/0001.jpg", "Train/Fake/0000.jpg"))
    assert taken.labels.tolist() == [1, 0]
    assert taken.path(0) == split.path(4)
    assert len(split.select([], "None")) == 0


@pytest.mark.parametrize("packed", [False, True])
def test_litter_is_neither_an_image_nor_a_class(tmp_path, packed):
    images = ("Train/Fake/a.jpg", "Train/Real/b.jpg", "Train/Real/deep/c.jpg")
    litter = ("Train/Fake/Thumbs.db", "Train/Real/deep/desktop.ini", "Train/Real/Icon\r", "Train/Fake/__MACOSX/._a.jpg",
              "Train/Fake/__MACOSX/a.jpg", "Train/__MACOSX/Fake/a.jpg")  # fmt: skip
    root = touch(tmp_path, *images, *litter)
    split = manifest.read_split(root, "Train")
    if packed:  # By an older version, which took litter for images.
        old = class_folders.read(str(tmp_path / "Train"), keep_litter=True)
        names = sorted(f"Train/{name}/{one}" for name in ("Fake", "Real") for one in old.classes[name])
        labels = np.array([name.startswith("Train/Real") for name in names], np.int32)
        records = tfrecord.Records(("s",), labels, *(np.arange(len(names)) for _ in range(3)))
        packed_split = tfrecord.PackedSplit(("Fake", "Real"), tfrecord.Names.of(names), labels, records)
        split, left_out = manifest._without_litter(packed_split)
        assert len(left_out.litter) == 4
        assert len(split.records.offset) == 3
    else:
        assert set(split.left_out.litter) == {
            "Train/Fake/Thumbs.db", "Train/Real/deep/desktop.ini", "Train/Real/Icon\r", "Train/Fake/__MACOSX/",
            "Train/__MACOSX/",
        }  # fmt: skip
        assert split.select([0], "Train").left_out == split.left_out
    assert split.class_names == ("Fake", "Real")
    assert tuple(split.names) == images
    assert split.labels.tolist() == [0, 1, 1]


def test_an_older_listing_took_litter_for_images(tmp_path):
    root = touch(tmp_path, *numbered("Train", "Fake", 4), *numbered("Train", "Real", 4), "Train/Fake/Thumbs.db")
    kept, validation = manifest.read_train_and_validation(root, 0.25, 0, keep_litter=True)
    assert "Train/Fake/Thumbs.db" in (*kept.names, *validation.names)
    assert len(kept) + len(validation) == 9
    assert not kept.left_out.litter


def test_only_regular_files_are_listed(tmp_path):
    root = touch(tmp_path, "Train/Fake/a.jpg", "Train/Real/b.jpg")
    os.mkfifo(tmp_path / "Train/Fake/pipe.jpg")
    (tmp_path / "Train/Real/link.jpg").symlink_to(tmp_path / "Train/Fake/pipe.jpg")
    (tmp_path / "Train/Real/gone.jpg").symlink_to(tmp_path / "nowhere")  # A bad image, which its reading names.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "Train/Fake/s"))
        split = manifest.read_split(root, "Train")
    assert split.names == ("Train/Fake/a.jpg", "Train/Real/b.jpg", "Train/Real/gone.jpg")
    assert split.left_out.special == ("Train/Fake/pipe.jpg", "Train/Fake/s", "Train/Real/link.jpg")


def test_a_missing_split_names_the_folders_that_are_there(tmp_path):
    touch(tmp_path, "trains/Fake/a.jpg", "vals/Fake/b.jpg")
    with pytest.raises(RequestError, match=r"no folder .*Train'; check the path \(it holds trains, vals\)"):
        manifest.read_split(str(tmp_path), "Train")
