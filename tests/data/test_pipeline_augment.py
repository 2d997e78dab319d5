"""Sequences of augmentations in batches: targets of mixtures, labels of forgeries, one result in every topology."""

import dataclasses
import os

import numpy as np
import pytest

from tests.helpers.images import write_image_set
from trainer.core.config import AUGMENTATIONS, AugmentConfig, DataConfig
from trainer.core.errors import RequestError
from trainer.data import augment, manifest, pipeline, preview, split_report
from trainer.data.augmentations import cutmix, mixup
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.order import Order
from trainer.data.pipeline import ReplicaShare
from trainer.data.self_blending import blend

SIZE = 32
FAKE, REAL = 0, 1
SETTINGS = augment.Settings(AugmentConfig(), positive=FAKE)


@pytest.fixture(scope="module")
def split(image_set):
    return manifest.read_split(image_set, "Validation")


def elements(split, augmentation, batch_size=30, *, start=0, stop=None, share=None, settings=SETTINGS):
    order = Order(len(split), batch_size, seed=5)
    stop = order.steps_per_pass if stop is None else stop
    images = ImageSource(split, DataConfig(image_size=SIZE))
    dataset = pipeline.batches(
        split, images, order, BadImages(os.devnull, 0.0, write=False), augmentation=augmentation, settings=settings,
        share=share or ReplicaShare(), start_step=start, stop_step=stop,
    )  # fmt: skip
    return list(dataset.as_numpy_iterator())


def by_example(batches):
    """Return what batches hold of each example: ``{example: {name: value}}``."""
    return {
        int(index): {name: batch[name][slot] for name in batch}
        for batch in batches for slot, index in enumerate(batch["index"]) if batch["weight"][slot]
    }  # fmt: skip


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


CHAINS = ["sbi,mixup", "notebook,cutmix", pytest.param("sbi,forensic,mixup,photometric,cutout", marks=pytest.mark.slow)]


@pytest.mark.parametrize("names", CHAINS)
def test_an_example_has_the_same_augmentation_in_every_batch_start_and_share(split, names):
    whole = elements(split, names, 10, stop=4)
    (tail,) = elements(split, names, 10, start=3, stop=4)
    assert equal(tail, whole[3])
    parts = elements(split, names, 10, stop=1, share=ReplicaShare(2, 0, 2))
    assert equal({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, whole[0])
    one, other = by_example(whole[:3]), by_example(elements(split, names, 7))
    assert one.keys() == other.keys() == set(range(30))
    assert all(equal(one[example], other[example]) for example in one)


def test_each_of_a_sequence_has_its_own_draws_and_only_mixtures_have_targets(split):
    (batch,) = elements(split, "flip,photometric,cutout")
    assert {"draws", "draws_1", "draws_2", "parameters_1", "parameters_2"} <= batch.keys()
    assert not np.isclose(batch["draws"], batch["draws_1"]).any(axis=1).any()
    assert "target" not in batch
    assert "target" not in elements(split, "sbi", stop=1)[0]


@pytest.mark.parametrize(("name", "module"), [("mixup", mixup), ("cutmix", cutmix)])
def test_images_and_labels_are_mixed_alike_after_what_stands_before(split, name, module):
    before = by_example(elements(split, "sbi"))
    mixed = by_example(elements(split, f"sbi,{name}"))
    for example, values in mixed.items():
        draws = values["draws_1"][None]
        other = before[int(augment.partners(np.array([example]), draws, len(split))[0])]
        own = before[example]
        image, (share,) = module.mix(own["image"][None], other["image"][None], draws, AugmentConfig())
        if name == "mixup":  # The partner has a forgery's draws of its own.
            assert np.array_equal(values["image"], image[0])
        one_hot = np.eye(2, dtype=np.float32)
        assert np.allclose(values["target"], share * one_hot[own["label"]] + (1 - share) * one_hot[other["label"]])
        assert values["label"] == own["label"]
        assert values["target"].sum() == pytest.approx(1.0)
    targets = np.array([values["target"] for values in mixed.values()])
    assert ((targets > 0.01) & (targets < 0.99)).any()


def test_an_image_whose_partner_cannot_be_decoded_stays_alone(tmp_path):
    root = write_image_set(tmp_path, train=8, validation=0, test=0, size=24)
    for number in range(4, 8):
        for name in ("Fake", "Real"):
            (tmp_path / "Train" / name / f"{number:05d}.jpg").write_bytes(b"no image")
    split = manifest.read_split(root, "Train")
    plain, mixed = (by_example(elements(split, names, 16)) for names in ("none", "mixup"))
    assert plain.keys() == mixed.keys() == {0, 1, 2, 3, 8, 9, 10, 11}
    partners = {i: int(augment.partners(np.array([i]), mixed[i]["draws"][None], 16)[0]) for i in mixed}
    alone = [example for example in mixed if partners[example] not in mixed]
    assert any(split.labels[example] != split.labels[partners[example]] for example in alone)
    for example in alone:
        assert np.array_equal(mixed[example]["image"], plain[example]["image"])
        assert mixed[example]["target"].tolist() == np.eye(2)[plain[example]["label"]].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_augmentation_but_sbi_looks_at_labels(split, name):
    turned = dataclasses.replace(split, labels=1 - split.labels)
    one, other = (elements(each, name)[0] for each in (split, turned))
    same = (one["image"] == other["image"]).all(axis=(1, 2, 3))
    assert same.all() == (name != "sbi")
    assert all(np.array_equal(one[key], other[key]) for key in one if key not in ("image", "label", "target"))
    assert np.array_equal(one["label"], 1 - other["label"]) == (name != "sbi")
    if name not in ("none", "flip"):
        unlike = augment.Settings(positive=REAL)
        assert np.array_equal(elements(split, name, settings=unlike)[0]["image"], one["image"]) == (name != "sbi")


def test_sbi_forges_half_of_the_real_images_anew_in_each_pass(split):
    plain = by_example(elements(split, "none"))
    passes = [by_example([batch]) for batch in elements(split, "sbi", stop=4)]
    forged = np.zeros([4, len(split)], bool)
    for number, batch in enumerate(passes):
        for example, values in batch.items():
            before = plain[example]
            forged[number, example] = values["label"] != before["label"]
            assert values["label"] == FAKE or not forged[number, example]
            assert np.array_equal(values["image"], before["image"]) != forged[number, example]
    assert not forged[:, split.labels == FAKE].any()
    assert 0.35 < forged[:, split.labels == REAL].mean() < 0.65
    assert len({row.tobytes() for row in forged}) == 4


def test_padding_is_neither_forged_nor_mixed(split):
    last = elements(split, "sbi,mixup", 8)[-1]
    assert last["weight"].tolist() == [1] * 6 + [0] * 2
    assert not last["image"][6:].any()


# --- for people to look at ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["sbi,mixup", "photometric,cutmix"])
def test_the_preview_is_what_training_gets(split, names):
    data = DataConfig(image_size=SIZE, augment=names)
    shown = preview.of_batch(split, data, 5, step=2, batch_size=10, count=6, settings=SETTINGS)
    (batch,) = elements(split, names, 10, start=2, stop=3)
    pixels = augment.to_pixels(augment.on_device(augment.load(names), batch))
    assert np.array_equal(shown.augmented, pixels[:6])
    assert np.array_equal(shown.images, elements(split, "none", 10, start=2, stop=3)[0]["image"][:6])
    classes = ["Fake", "Real"]
    assert [text.split()[-1 if " as " in text and "%" not in text else 0] for text in shown.labels]
    for text, index, label, target in zip(shown.labels, batch["index"], batch["label"], batch["target"], strict=False):
        before, now = classes[split.labels[index]], classes[label]
        assert text.startswith(now if before == now else f"{before} as {now}")
        assert text.endswith("%") == (target[label] <= 0.995)


# --- a folder of real images alone ----------------------------------------------------------------------------------


def real_only(root, *, empty=False, validation=0, **options):
    """Write a set of which only Real has images."""
    write_image_set(root, train=12, validation=validation, test=0, classes=["Real"], size=24, **options)
    if empty:
        (root / "Train" / "Fake").mkdir()
    return str(root)


def read(root, self_blended="", **options):
    return manifest.read_train_and_validation(root, 0.5, 1, self_blended=self_blended, **options)


@pytest.mark.parametrize("empty", [False, True])
def test_real_images_alone_have_the_class_of_forgeries_and_half_of_validation_in_it(tmp_path, empty):
    train, validation = read(real_only(tmp_path, empty=empty))
    assert train.class_names == validation.class_names == ("Fake", "Real")
    assert train.counts == {"Fake": 0, "Real": 6}
    assert validation.counts == {"Fake": 3, "Real": 3}
    assert train.self_blended is None
    assert read(str(tmp_path))[1].fingerprint == validation.fingerprint
    line = split_report.of_training(str(tmp_path), train, validation)
    assert "3 made by blending images with themselves" in line


def test_the_class_of_forgeries_may_have_another_name(tmp_path):
    assert read(real_only(tmp_path), "Altered")[0].class_names == ("Altered", "Real")


def test_a_validation_folder_of_real_images_alone(tmp_path):
    train, validation = read(real_only(tmp_path, validation=5))
    assert train.counts == {"Fake": 0, "Real": 12}
    assert validation.counts == {"Fake": 2, "Real": 3}


def test_forgeries_that_are_there_stay_what_they_are(image_set):
    with_sbi, without = read(image_set), manifest.read_train_and_validation(image_set, 0.5, 1)
    for one, other in zip(with_sbi, without, strict=True):
        assert one.fingerprint == other.fingerprint
        assert one.self_blended is None


def test_the_forgeries_of_validation_are_the_same_pixels_in_every_part_and_order(tmp_path):
    _, validation = read(real_only(tmp_path, validation=8))
    images = ImageSource(validation, DataConfig(image_size=SIZE))
    every = images.load(np.arange(8)).images
    files = (
        ImageSource(dataclasses.replace(validation, self_blended=None), DataConfig(image_size=SIZE))
        .load(np.arange(8))
        .images
    )
    for index, image in enumerate(every):
        assert np.array_equal(image, files[index]) == (validation.labels[index] == REAL)
        assert np.array_equal(images.load(np.array([index])).images[0], image)
    assert np.array_equal(images.load(np.arange(8)[::-1]).images, every[::-1])
    part = validation.select([6, 1, 3], "part")
    assert np.array_equal(ImageSource(part, DataConfig(image_size=SIZE)).load(np.arange(3)).images, every[[6, 1, 3]])
    (batch,) = elements(validation, "none", 8)
    assert np.array_equal(batch["image"][np.argsort(batch["index"])], every)
    assert np.array_equal(batch["label"], validation.labels[batch["index"]])


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["Fake"], "expected two classes"),
        (["Fake", "Other", "Real"], "received 3"),
        (["Left", "Right"], "--positive_class"),
    ],
)
def test_classes_that_self_blending_cannot_use_are_refused(tmp_path, classes, words):
    write_image_set(tmp_path, train=4, validation=0, test=0, classes=classes, size=8)
    with pytest.raises(RequestError, match=words):
        read(str(tmp_path))


def test_without_sbi_a_folder_of_real_images_alone_is_refused_as_before(tmp_path):
    with pytest.raises(RequestError, match="at least two class folders"):
        manifest.read_train_and_validation(real_only(tmp_path), 0.5, 1)


def test_an_empty_folder_of_real_images_is_refused(tmp_path):
    write_image_set(tmp_path, train=4, validation=0, test=0, classes=["Fake"], size=8)
    (tmp_path / "Train" / "Real").mkdir()
    with pytest.raises(RequestError, match="empty class"):
        read(str(tmp_path))


def test_a_validation_of_one_image_cannot_be_halved(tmp_path):
    with pytest.raises(RequestError, match="at least two images in Validation"):
        read(real_only(tmp_path, validation=1))


def test_draws_of_validation_are_none_of_training():
    first = augment.draw(1, 2**63, np.arange(4), count=blend.DRAWS)
    assert not np.isin(first, augment.draw(1, 0, np.arange(4), count=blend.DRAWS)).any()
