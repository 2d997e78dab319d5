"""Batches from files: every image once, bad ones masked and named, any step alike from any start, any topology."""

import errno
import importlib
import io
import json
import os
import shutil
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers import faults
from trainer.core.config import DataConfig
from trainer.core.errors import RequestError
from trainer.data import augment, decode_batch, manifest, pipeline
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.input_rule import InputRule
from trainer.data.order import Order
from trainer.data.pipeline import ReplicaShare
from trainer.distributed import tf_private

SIZE = 48


@pytest.fixture(scope="module")
def split(image_set):
    return manifest.read_split(image_set, "Validation")


def elements(split, order, skipped=None, *, start=0, stop=None, share=None, augmentation="none", size=SIZE):
    stop = order.steps_per_pass if stop is None else stop
    skipped = skipped or BadImages(os.devnull, 0.0, write=False)
    images = ImageSource(split, DataConfig(image_size=size))
    dataset = pipeline.batches(split, images, order, skipped, augmentation=augmentation, share=share or ReplicaShare(),
                               start_step=start, stop_step=stop)  # fmt: skip
    return list(dataset.as_numpy_iterator())


def together(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_elements_have_the_shapes_and_types_that_the_step_expects(split):
    per_pass = {"none": set(), "forensic": {"draws"}, "notebook": {"draws", "parameters"}}
    shapes = {"image": ((8, SIZE, SIZE, 3), np.uint8), "label": ((8,), np.int32), "weight": ((8,), np.float32),
              "index": ((8,), np.int64), "draws": ((8, augment.DRAWS), np.float32),
              "parameters": ((8, 2, 3), np.float32)}  # fmt: skip
    for augmentation, more in per_pass.items():
        (batch,) = elements(split, Order(30, 8), stop=1, augmentation=augmentation)
        assert batch.keys() == {"image", "label", "weight", "index"} | more
        assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
            name: shapes[name] for name in batch
        }


def test_every_image_comes_once_with_its_own_pixels_and_label(split):
    batches = elements(split, Order(30, 8, seed=3))
    weight, index = together(batches, "weight"), together(batches, "index")
    real = weight == 1.0
    assert sorted(index[real]) == list(range(30))
    assert np.array_equal(together(batches, "label")[real], split.labels[index[real]])
    images = together(batches, "image")
    for position in np.flatnonzero(real)[::7]:
        content = Path(split.path(int(index[position]))).read_bytes()
        pixels = decode_batch.load_batch([content], InputRule(SIZE, interpolation="nearest")).images[0]
        assert np.array_equal(images[position], pixels)


def test_padding_is_masked_and_black_and_only_at_the_end(split):
    batches = elements(split, Order(30, 8))
    assert [batch["weight"].sum() for batch in batches] == [8, 8, 8, 6]
    assert batches[-1]["weight"].tolist() == [1] * 6 + [0] * 2
    assert not batches[-1]["image"][6:].any()
    assert batches[-1]["image"][:6].any(axis=(1, 2, 3)).all()


def test_a_share_that_is_all_padding(split):
    batches = elements(split, Order(30, 28), share=ReplicaShare(replicas=2, first=0, local=2))
    assert [batch["weight"].sum() for batch in batches] == [14, 14, 2, 0]
    assert not batches[-1]["image"].any()


def test_validation_keeps_the_manifests_order(split):
    index = together(elements(split, Order(30, 8, shuffle=False)), "index")
    assert index.tolist() == [*range(30), 0, 0]


@pytest.mark.parametrize(("augmentation", "start"), [("none", 3), ("notebook", 4), ("forensic", 7)])
def test_to_start_at_a_step_is_the_tail_of_the_whole_stream(split, augmentation, start):
    order = Order(30, 8, seed=5)
    whole = elements(split, order, stop=9, augmentation=augmentation)
    tail = elements(split, order, start=start, stop=9, augmentation=augmentation)
    assert len(tail) == 9 - start
    assert all(equal(one, other) for one, other in zip(tail, whole[start:], strict=True))


@pytest.mark.parametrize(("augmentation", "replicas"), [("none", 4), ("notebook", 2), ("notebook", 4), ("forensic", 2)])
def test_replicas_put_together_are_the_batch_of_one(split, augmentation, replicas):
    order = Order(30, 8, seed=5)
    one = elements(split, order, stop=5, augmentation=augmentation)
    several = elements(split, order, stop=5, augmentation=augmentation, share=ReplicaShare(replicas, 0, replicas))
    assert len(several) == 5 * replicas
    for step, batch in enumerate(one):
        parts = several[step * replicas : (step + 1) * replicas]
        assert equal({name: together(parts, name) for name in batch}, batch)


def test_two_processes_of_two_replicas_make_the_same_batches(split):
    order = Order(30, 8, seed=5)
    four = elements(split, order, stop=4, share=ReplicaShare(4, 0, 4))
    first = elements(split, order, stop=4, share=ReplicaShare(4, 0, 2))
    second = elements(split, order, stop=4, share=ReplicaShare(4, 2, 2))
    for step in range(4):
        parts = first[2 * step : 2 * step + 2] + second[2 * step : 2 * step + 2]
        assert all(equal(one, other) for one, other in zip(parts, four[4 * step : 4 * step + 4], strict=True))


def test_the_next_pass_has_another_order_and_other_draws(split):
    order = Order(30, 30, seed=1)
    one, other = elements(split, order, stop=2, augmentation="notebook")
    assert one["index"].tolist() != other["index"].tolist()
    first = one["draws"][one["index"].argsort()]
    second = other["draws"][other["index"].argsort()]
    assert not np.isclose(first, second).any(axis=1).any()


def test_draws_belong_to_the_example_not_to_the_place(split):
    batch = elements(split, Order(30, 30, seed=1), augmentation="notebook")[0]
    small = elements(split, Order(30, 7, seed=1), augmentation="notebook")
    by_example = {int(index): draws for element in small for index, draws, weight
                  in zip(element["index"], element["draws"], element["weight"], strict=True) if weight}  # fmt: skip
    for index, draws in zip(batch["index"], batch["draws"], strict=True):
        assert np.array_equal(by_example[int(index)], draws)


def test_the_notebooks_augmentation_leaves_the_images_to_the_device(split):
    plain, notebook, forensic = (
        elements(split, Order(30, 30), augmentation=name)[0]["image"] for name in ("none", "notebook", "forensic")
    )
    assert np.array_equal(plain, notebook)
    assert not np.array_equal(plain, forensic)


def test_nothing_that_a_strategy_iterates_over_has_autotune(split, monkeypatch):
    """Who drops an iterator that has it often waits for it, up to a minute (TensorFlow 2.21)."""

    def kept(*arguments):
        datasets.append(create(*arguments))
        return datasets[-1]

    tf_private.switch_off_iterator_autotune()
    iterators = importlib.import_module(tf_private._ITERATORS)
    datasets, create = [], iterators._create_device_dataset
    monkeypatch.setattr(iterators, "_create_device_dataset", kept)
    datasets.append(
        pipeline.batches(split, ImageSource(split, DataConfig(image_size=SIZE)), Order(30, 8),
                         BadImages(os.devnull, 0.0, write=False), augmentation="none", share=ReplicaShare(),
                         start_step=0, stop_step=2)
    )  # fmt: skip
    for strategy in (tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.MirroredStrategy(["CPU:0"])):
        assert len(list(strategy.distribute_datasets_from_function(lambda _: datasets[0]))) == 2
    assert len(datasets) >= 3
    assert [dataset.options().autotune.enabled for dataset in datasets] == [False] * len(datasets)


@pytest.mark.skipif(joblib.cpu_count() < 2, reason="needs a second thread of TensorFlow's")
def test_the_cores_go_on_while_a_slow_batch_is_waited_for(split, monkeypatch):
    """Two cores: the first batch takes until three others have been made, one more than a call for each core allows."""
    others, load = threading.Semaphore(0), ImageSource.load
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    first = Order(30, 8).slots(tf.constant(0, tf.int64), 0, 8)[1].numpy()

    def slow(self, index, draws=None):
        if np.array_equal(index, first):
            assert all(others.acquire(timeout=20) for _ in range(3)), "too few were begun"
        else:
            others.release()
        return load(self, index, draws)

    monkeypatch.setattr(ImageSource, "load", slow)
    assert len(elements(split, Order(30, 8))) == 4


def test_images_are_resized_on_the_way(split):
    assert elements(split, Order(30, 8), stop=1, size=20)[0]["image"].shape == (8, 20, 20, 3)


# --- bad images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(image_set, tmp_path):
    """Return a copy of Validation whose image 2 is truncated and whose image 17 is text."""
    shutil.copytree(os.path.join(image_set, "Validation"), tmp_path / "data" / "Validation")
    split = manifest.read_split(str(tmp_path / "data"), "Validation")
    content = (tmp_path / "data" / split.names[2]).read_bytes()
    (tmp_path / "data" / split.names[2]).write_bytes(content[: len(content) // 2])
    (tmp_path / "data" / split.names[17]).write_bytes(b"not an image at all")
    return split


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bad_images_have_no_weight_and_the_others_keep_theirs(damaged, tmp_path):
    skipped = BadImages(str(tmp_path / "skipped.jsonl"), 0.1)
    batches = elements(damaged, Order(30, 8, seed=2), skipped)
    weight, index = together(batches, "weight"), together(batches, "index")
    assert sorted(index[weight == 1.0]) == [number for number in range(30) if number not in (2, 17)]
    assert weight.sum() == 28
    images = together(batches, "image")
    assert not images[weight == 0.0].any()
    assert images[weight == 1.0].any(axis=(1, 2, 3)).all()


def test_bad_images_are_named_and_counted_once(damaged, tmp_path):
    file = tmp_path / "skipped.jsonl"
    skipped = BadImages(str(file), 0.1)
    elements(damaged, Order(30, 8, seed=2), skipped, stop=12)  # Three passes.
    assert skipped.count("Validation") == 2
    assert not file.exists()  # Only the thread that owns the job writes.
    told = skipped.check_limit()
    entries = {entry["path"]: entry for entry in lines(file)}
    assert entries.keys() == {damaged.names[2], damaged.names[17]}
    assert len(lines(file)) == 2
    assert all(entry["split"] == "Validation" for entry in entries.values())
    assert "JPEG" in entries[damaged.names[2]]["reason"]
    assert sorted(told) == sorted(f"skipped {path}: {entry['reason']}" for path, entry in entries.items())
    assert skipped.check_limit() == []
    assert len(lines(file)) == 2


def test_a_continued_job_knows_what_was_skipped_before(damaged, tmp_path):
    file = tmp_path / "skipped.jsonl"
    first = BadImages(str(file), 0.1)
    elements(damaged, Order(30, 8), first)
    first.check_limit()
    again = BadImages(str(file), 0.1)
    assert again.count("Validation") == 2
    elements(damaged, Order(30, 8), again)
    assert again.check_limit() == []
    assert len(lines(file)) == 2


def test_more_bad_images_than_allowed_are_refused(damaged, tmp_path):
    skipped = BadImages(str(tmp_path / "skipped.jsonl"), 0.05)
    elements(damaged, Order(30, 8), skipped)
    with pytest.raises(RequestError) as caught:
        skipped.check_limit()
    message = str(caught.value)
    assert "at most 5.0% of the 30 images of Validation" in message
    assert "--max_bad_fraction" in message
    assert any(damaged.names[number] in message for number in (2, 17))
    assert len(lines(tmp_path / "skipped.jsonl")) == 2  # Named all the same.


def test_exactly_the_allowed_share_is_allowed(tmp_path):
    skipped = BadImages(str(tmp_path / "s.jsonl"), 0.25)
    skipped.report("Train", 8, "Train/Fake/a", "bad")
    skipped.report("Train", 8, "Train/Fake/b", "bad")
    assert len(skipped.check_limit()) == 2
    skipped.report("Train", 8, "Train/Fake/c", "bad")
    with pytest.raises(RequestError, match="received 3 so far, such as Train/Fake/c"):
        skipped.check_limit()


def test_splits_are_counted_apart(tmp_path):
    skipped = BadImages(str(tmp_path / "s.jsonl"), 0.1)
    for split in ("Train", "Validation", "Test"):
        skipped.report(split, 10, "same/name", "bad")
    assert [skipped.count(split) for split in ("Train", "Validation", "Test")] == [1, 1, 1]
    assert len(skipped.check_limit()) == 3


def test_a_process_that_is_not_the_chief_writes_nothing_but_refuses_alike(tmp_path):
    skipped = BadImages(str(tmp_path / "s.jsonl"), 0.1, write=False)
    skipped.report("Train", 5, "a", "bad")
    with pytest.raises(RequestError):
        skipped.check_limit()
    assert not (tmp_path / "s.jsonl").exists()


def test_an_image_that_decodes_again_leaves_the_list_and_the_file(damaged, tmp_path):
    file = tmp_path / "skipped.jsonl"
    skipped = BadImages(str(file), 0.1)
    elements(damaged, Order(30, 8, seed=2), skipped)
    skipped.check_limit()
    skipped.take_new()
    intact = Path(damaged.path(3)).read_bytes()
    Path(damaged.path(17)).write_bytes(intact)
    again = BadImages(str(file), 0.1)
    batches = elements(damaged, Order(30, 8, seed=2), again)
    assert together(batches, "weight").sum() == 29
    assert again.count("Validation") == 1
    assert again.check_limit() == [f"no longer skipped, as it decodes again: {damaged.names[17]}"]
    assert [entry["path"] for entry in lines(file)] == [damaged.names[2]]
    assert [entry["path"] for entry in again.take_new()] == [damaged.names[17]]
    assert again.check_limit() == []
    Path(damaged.path(17)).write_bytes(b"not an image at all")  # And back onto it.
    elements(damaged, Order(30, 8, seed=2), again)
    again.check_limit()
    assert {entry["path"] for entry in lines(file)} == {damaged.names[2], damaged.names[17]}


def test_other_processes_take_it_off_their_lists_too(tmp_path):
    chief, other = BadImages(str(tmp_path / "s.jsonl"), 0.5), BadImages(str(tmp_path / "s.jsonl"), 0.5, write=False)
    other.report("Train", 8, "Train/Fake/a", "bad")
    other.report("Train", 8, "Train/Fake/b", "bad")
    chief.merge(other.take_new())
    chief.check_limit()
    chief.report_good("Train", ["Train/Fake/a", "Train/Fake/c"])
    chief.report_good("Validation", ["Train/Fake/b"])
    other.merge(chief.take_new())
    chief.check_limit()
    other.check_limit()
    assert chief.count("Train") == other.count("Train") == 1
    assert [entry["path"] for entry in lines(tmp_path / "s.jsonl")] == ["Train/Fake/b"]


@pytest.mark.parametrize(
    "torn", ['{"split": "Train", "pa', "\0\0\0", '{"split": "Train", "path": "a"', "[]", "7", '{"a": 1}']
)
def test_a_torn_line_is_dropped_and_later_ones_are_not_glued_to_it(tmp_path, torn, package_log):
    file = tmp_path / "s.jsonl"
    first = BadImages(str(file), 0.5)
    first.report("Train", 8, "Train/Fake/a", "bad")
    first.check_limit()
    with file.open("a") as end:
        end.write(torn)
    for again in (BadImages(str(file), 0.5), BadImages(str(file), 0.5, write=False)):
        assert again.count("Train") == 1
    again = BadImages(str(file), 0.5)
    again.report("Train", 8, "Train/Fake/a", "bad")
    again.report("Train", 8, "Train/Fake/b", "bad")
    again.check_limit()
    assert [entry["path"] for entry in lines(file)] == ["Train/Fake/a", "Train/Fake/b"]
    assert "never finished: dropped" in package_log.text


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text('{"split": "Train", "path": "a", "reason": "bad"}')
    skipped = BadImages(str(file), 0.5)
    skipped.report("Train", 8, "b", "bad")
    skipped.check_limit()
    assert [entry["path"] for entry in lines(file)] == ["a", "b"]


def test_a_full_disk_keeps_the_old_file_and_the_list_is_written_later(tmp_path):
    file = tmp_path / "s.jsonl"
    skipped = BadImages(str(file), 0.5)
    skipped.report("Train", 8, "a", "bad")
    skipped.check_limit()
    skipped.report_good("Train", ["a"])
    with faults.injected(path="*s.jsonl*", count=0, number=errno.ENOSPC, mode="w"):
        skipped.check_limit()
        assert len(lines(file)) == 1
    skipped.check_limit()
    assert lines(file) == []


def test_a_file_that_vanishes_is_a_bad_image(damaged, tmp_path):
    os.remove(damaged.path(5))
    skipped = BadImages(str(tmp_path / "s.jsonl"), 0.5)
    batches = elements(damaged, Order(30, 8, shuffle=False), skipped)
    assert batches[0]["weight"].tolist() == [1, 1, 0, 1, 1, 0, 1, 1]
    skipped.check_limit()
    reasons = {entry["path"]: entry["reason"] for entry in lines(tmp_path / "s.jsonl")}
    assert "No such file" in reasons[damaged.names[5]]


def test_odd_names_are_read_and_reported(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full([SIZE, SIZE, 3], 200, np.uint8)).save(buffer, format="PNG")
    names = ["a b.png", "größe.png", "new\nline.png", "-rf.png"]
    for class_name in ("Fake", "Real"):
        for name in names:
            (tmp_path / "Train" / class_name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "Train" / class_name / name).write_bytes(buffer.getvalue())
    (tmp_path / "Train/Real/bad\n\u20ac.png").write_bytes(b"")
    split = manifest.read_split(str(tmp_path), "Train")
    skipped = BadImages(str(tmp_path / "s.jsonl"), 0.5)
    (batch,) = elements(split, Order(9, 9), skipped)
    assert batch["weight"].sum() == 8
    assert (batch["image"][batch["weight"] == 1] == 200).all()
    skipped.check_limit()
    assert [entry["path"] for entry in lines(tmp_path / "s.jsonl")] == ["Train/Real/bad\n\u20ac.png"]
