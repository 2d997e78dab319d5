"""A packed set is the folder that it was made of: same order, same pixels, same weights; and it is read by offset."""

import io
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.commands import refusal
from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, result_of, run_job, values_of  # noqa: F401
from tests.helpers.tiny_export import write_export
from trainer import evaluate, prepare_data
from trainer.core import cli
from trainer.core.config import DataConfig
from trainer.core.errors import RequestError
from trainer.data import manifest, readers, tfrecord
from trainer.data.image_source import ImageSource
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags

BAD = {"Train/Fake/cut.jpg": "JPEG", "Train/Real/text.jpg": "Unknown image file format"}


def pack(request):
    return writer.pack(request, manifest.read_all_splits(request.data_dir))


def encoded(pixels, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a data_dir with odd names, bad files and formats that have to be converted."""
    root = tmp_path_factory.mktemp("folder")
    write_image_set(root, train=12, validation=4, test=3)
    real, fake = root / "Train" / "Real", root / "Train" / "Fake"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    (fake / "turned.jpg").write_bytes(encoded(pixels, "JPEG", exif=exif.tobytes()))
    (fake / "größe\n.png").write_bytes(encoded(pixels, "PNG"))
    (fake / "-w.webp").write_bytes(encoded(pixels, "WEBP", lossless=True))
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(buffer, "JPEG")
    (real / "cmyk.jpg").write_bytes(buffer.getvalue())
    (real / os.fsdecode(b"latin\xe9.bmp")).write_bytes(encoded(pixels, "BMP"))
    (fake / "cut.jpg").write_bytes((fake / "00000.jpg").read_bytes()[:700])
    (real / "text.jpg").write_bytes(b"no image" * 20)
    return str(root)


@pytest.fixture(scope="module")
def packed_set(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed")
    pack(PackFlags(data_dir=folder, out=str(out), images_per_shard=5))
    return str(out)


def pixels_of(data_dir, split="Train", size=64):
    found = manifest.read_split(data_dir, split)
    loaded = ImageSource(found, DataConfig(image_size=size)).load(np.arange(len(found)))
    return found, loaded.images, loaded.errors


@pytest.mark.parametrize("split", ["Train", "Validation", "Test"])
def test_the_packed_set_is_the_folder(folder, packed_set, split):
    one, pixels, errors = pixels_of(folder, split)
    other, packed_pixels, packed_errors = pixels_of(packed_set, split)
    assert other.fingerprint == one.fingerprint
    assert other.counts == one.counts
    assert np.array_equal(packed_pixels, pixels)
    assert packed_errors == errors
    assert {one.names[i] for i in errors} == (set(BAD) if split == "Train" else set())


def test_images_keep_their_bytes_unless_something_must_change(folder, packed_set):
    split = manifest.read_split(packed_set, "Train")
    contents = readers.open_reader(split).read(np.arange(len(split)))
    changed = {
        name for name, content in zip(split.names, contents, strict=True)
        if content != (Path(folder) / name).read_bytes()
    }  # fmt: skip
    assert changed == {"Train/Fake/turned.jpg", "Train/Fake/-w.webp", "Train/Real/cmyk.jpg",
                       os.fsdecode(b"Train/Real/latin\xe9.bmp")}  # fmt: skip
    for name, content in zip(split.names, contents, strict=True):
        assert name not in changed or Image.open(io.BytesIO(content)).format == "PNG"
    assert tfrecord.read_manifest(packed_set)["splits"]["Train"]["converted"] == 4


def test_the_shards_are_tfrecords_that_others_can_read(packed_set):
    split = manifest.read_split(packed_set, "Train")
    told = tfrecord.read_manifest(packed_set)["splits"]["Train"]
    assert [shard["images"] for shard in told["shards"]] == [5, 5, 5, 5, 5, 5, 1]
    paths = [str(Path(packed_set) / shard["path"]) for shard in told["shards"]]
    features = {name: tf.io.FixedLenFeature([], kind)
                for name, kind in (("image", tf.string), ("label", tf.int64), ("name", tf.string))}  # fmt: skip
    examples = [tf.io.parse_single_example(record, features) for record in tf.data.TFRecordDataset(paths)]
    assert [os.fsdecode(example["name"].numpy()) for example in examples] == list(split.names)
    assert [int(example["label"]) for example in examples] == split.labels.tolist()
    contents = readers.open_reader(split).read(np.arange(len(split)))
    assert [example["image"].numpy() for example in examples] == contents


def test_bad_images_are_named_and_can_be_dropped(folder, tmp_path):
    kept = pack(PackFlags(data_dir=folder, out=str(tmp_path / "kept")))
    assert {name: word in kept["bad"][name] for name, word in BAD.items()} == dict.fromkeys(BAD, True)
    told = pack(PackFlags(data_dir=folder, out=str(tmp_path / "dropped"), drop_bad=True))
    assert told["bad"].keys() == BAD.keys()
    split, _, errors = pixels_of(str(tmp_path / "dropped"))
    assert not errors
    assert not set(BAD) & set(split.names)
    assert len(split) == told["splits"]["Train"]["images"] == kept["splits"]["Train"]["images"] - 2


def test_what_only_pillow_reads_is_rescued(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 4), np.uint8)
    (tmp_path / "data/Train/Fake/alpha.webp").write_bytes(encoded(pixels, "WEBP", lossless=True))
    _, _, errors = pixels_of(str(tmp_path / "data"))
    assert len(errors) == 2  # Training rescues it by the same function.
    pack(PackFlags(data_dir=str(tmp_path / "data"), out=str(tmp_path / "out")))
    split, images, errors = pixels_of(str(tmp_path / "out"))
    assert len(errors) == 2
    rescued = images[list(split.names).index("Train/Fake/alpha.webp")]
    visible = pixels[..., 3] > 0  # Lossless WebP keeps no colour where nothing shows.
    assert np.array_equal(rescued[visible], pixels[visible][:, :3])


@pytest.mark.slow
def test_resizing_beforehand_is_the_resizing_of_the_pipeline(folder, tmp_path):
    pack(PackFlags(data_dir=folder, out=str(tmp_path / "small"), resize=50))
    _, small, _ = pixels_of(str(tmp_path / "small"), size=50)
    _, pixels, _ = pixels_of(folder, size=50)
    assert np.array_equal(small, pixels)
    pack(PackFlags(data_dir=folder, out=str(tmp_path / "jpeg"), encode="jpeg", jpeg_quality=80))
    split, again, _ = pixels_of(str(tmp_path / "jpeg"))
    content = readers.open_reader(split).read_one(0)
    assert Image.open(io.BytesIO(content)).format == "JPEG"
    assert 0 < np.abs(again.astype(int) - pixels_of(folder)[1]).mean() < 12


def test_after_a_kill_the_same_command_goes_on(folder, packed_set, tmp_path, monkeypatch):
    request = PackFlags(data_dir=folder, out=str(tmp_path), images_per_shard=5, workers=1)
    built, real = [], writer._build

    def build(shard, *arguments):
        if len(built) == 3:
            raise KeyboardInterrupt
        built.append(shard.path)
        return real(shard, *arguments)

    monkeypatch.setattr(writer, "_build", build)
    with pytest.raises(KeyboardInterrupt):
        pack(request)
    assert tfrecord.read_manifest(str(tmp_path)) is None
    with pytest.raises(RequestError, match="no folder"):
        manifest.read_split(str(tmp_path), "Train")
    built.append("room for more")
    first = set(built)
    pack(request)
    assert first & set(built[4:]) == set()
    assert not (tmp_path / writer.NOTES).exists()
    for path in Path(packed_set).glob("*.tfrecord"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert pack(request) == tfrecord.read_manifest(str(tmp_path))  # A third time there is nothing to do.
    shards = len(list(tmp_path.glob("*.tfrecord")))
    assert len(built) == 4 + shards - 3  # Three were not built again.


def test_another_packed_set_is_not_overwritten(folder, packed_set):
    with pytest.raises(RequestError, match="another --out"):
        pack(PackFlags(data_dir=folder, out=packed_set, images_per_shard=5, resize=60))


def test_the_command_says_what_it_did_and_does_it_once(folder, tmp_path, capfd):
    words = [f"--data_dir={folder}", f"--out={tmp_path}", "--drop_bad"]
    for _ in range(2):
        assert cli.run_command(prepare_data.pack, words) == 0
        out, err = capfd.readouterr()
        assert "Train       Fake 15, Real 14; 1 shard," in out
        assert "4 converted" in out
        assert "bad         2 (left out)" in out
        assert "bad: Train/Real/text.jpg: Unknown image file format" in err


def test_leaks_are_left_out_of_train_and_validation(folder, tmp_path, capfd):
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    shutil.copy(data / "Test/Fake/00000.jpg", data / "Train/Fake/leak.jpg")
    with Image.open(data / "Test/Real/00001.jpg") as image:
        image.save(data / "Validation/Real/again.jpg", quality=70)
    words = [f"--data_dir={data}", f"--out={tmp_path / 'out'}", "--drop_leaks"]
    assert cli.run_command(prepare_data.pack, words) == 0
    assert tfrecord.read_manifest(str(tmp_path / "out"))["dropped"] == [
        "Train/Fake/leak.jpg", "Validation/Real/again.jpg"
    ]  # fmt: skip
    for split in ("Train", "Validation", "Test"):
        there = manifest.read_split(str(tmp_path / "out"), split)
        assert there.fingerprint == manifest.read_split(folder, split).fingerprint
    assert "leaks       2 left out" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out=O"], "expected --data_dir"),
        (["--data_dir=absent", "--out=O"], "no folder"),
        (["--data_dir=absent", "--out=O", "--encode=gif"], "expected one of keep, png, jpeg"),
        (["--data_dir=absent", "--out=O", "word"], "expected only flags"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(words, message, capfd):
    assert message in refusal(capfd, prepare_data.pack, *words)


def test_a_packed_set_is_not_packed_again(packed_set, tmp_path, capfd):
    line = refusal(capfd, prepare_data.pack, f"--data_dir={packed_set}", f"--out={tmp_path}")
    assert "expected a folder of images" in line


@pytest.fixture
def copy(packed_set, tmp_path):
    shutil.copytree(packed_set, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_flipped_bit_in_a_shard_is_a_bad_image(copy):
    split = manifest.read_split(str(copy), "Validation")
    path = Path(split.records.shards[int(split.records.shard[2])])
    content = bytearray(path.read_bytes())
    content[int(split.records.offset[2]) + 100] ^= 1
    path.write_bytes(content)
    assert list(pixels_of(str(copy), "Validation")[2]) == [2]


def test_the_images_that_a_truncated_shard_lacks_are_bad(copy):
    split = manifest.read_split(str(copy), "Validation")
    os.truncate(split.records.shards[0], int(split.records.offset[3]) + 10)
    errors = pixels_of(str(copy), "Validation")[2]
    assert sorted(errors) == [3, 4]
    assert "other bytes" in errors[4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda copy: (copy / "pack.json").write_text("{"), "manifest"),
        (lambda copy: (copy / "pack.json").write_text('{"format": "deepdetect-pack", "version": 99}'), "version"),
        (lambda copy: (copy / "pack.json").write_text("[]"), "the list"),
        (lambda copy: (copy / "pack.json").write_text('{"format": "deepdetect-pack", "version": 1}'), "class_names"),
        (
            lambda copy: (copy / "pack.json").write_text((copy / "pack.json").read_text().replace('"index"', '"i"')),
            "'index'",
        ),
        (lambda copy: (copy / "Train.index.npz").unlink(), "no such file"),
        (lambda copy: os.truncate(copy / "Train.index.npz", 500), "checksum"),
    ],
)
def test_a_damaged_manifest_or_index_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(RequestError, match=message):
        manifest.read_split(str(copy), "Train")


def test_a_split_that_was_not_packed_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/Test")
    pack(PackFlags(data_dir=str(tmp_path / "data"), out=str(tmp_path / "out")))
    with pytest.raises(RequestError, match=r"expected the packed set .* to hold Test, received Train, Validation"):
        manifest.read_split(str(tmp_path / "out"), "Test")


def test_classes_in_another_order_are_relabelled(folder, packed_set):
    one = manifest.read_split(folder, "Test", ["Real", "Fake"])
    other = manifest.read_split(packed_set, "Test", ["Real", "Fake"])
    assert other.fingerprint == one.fingerprint
    contents = readers.open_reader(other).read(np.arange(len(other)))
    assert contents == readers.open_reader(one).read(np.arange(len(one)))


@pytest.mark.slow
def test_a_held_out_share_is_the_same(folder, packed_set):
    for one, other in zip(
        manifest.hold_out(manifest.read_split(folder, "Train"), 0.3, 7),
        manifest.hold_out(manifest.read_split(packed_set, "Train"), 0.3, 7),
        strict=True,
    ):
        assert other.fingerprint == one.fingerprint
        pixels = [
            ImageSource(split, DataConfig(image_size=48)).load(np.arange(len(split))).images for split in (one, other)
        ]
        assert np.array_equal(*pixels)


def test_names_behave_as_a_tuple_of_strings():
    names = ["", "a", "größe\n", os.fsdecode(b"\xff\xfe"), "-x", ""]
    kept = tfrecord.Names.of(names)
    assert list(kept) == names
    assert [kept[i] for i in range(-6, 6)] == names + names
    assert kept[1:3] == ("a", "größe\n")
    with pytest.raises(IndexError):
        kept[6]


def test_a_bomb_is_not_converted(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    (tmp_path / "data/Train/Fake/bomb.png").write_bytes(data + b"\0" * 50)
    told = pack(PackFlags(data_dir=str(tmp_path / "data"), out=str(tmp_path / "out")))
    assert "900000000" in told["bad"]["Train/Fake/bomb.png"]


@pytest.mark.thorough
def test_evaluation_of_the_packed_set_gives_the_same_scores(folder, packed_set, tmp_path):
    model = write_export(tmp_path / "best" / "1", ["Fake", "Real"])
    for name, data_dir in (("folder", folder), ("packed", packed_set)):
        words = [f"--model_dir={model}", f"--data_dir={data_dir}", "--split=Train", f"--out={tmp_path / name}",
                 "--bootstrap=0", "--max_bad_fraction=0.2"]  # fmt: skip
        assert cli.run_command(evaluate.main, words) == 0
    scores = [(tmp_path / name / "predictions.csv").read_text() for name in ("folder", "packed")]
    assert scores[0] == scores[1]
    assert len(scores[0].splitlines()) > 25
    assert "report.html" in {path.name for path in (tmp_path / "packed").iterdir()}


@pytest.mark.slow
def test_training_on_the_packed_set_gives_the_same_weights(folder, packed_set, tmp_path):
    job = {"epochs": 2, "batch_size": 8, "max_bad_fraction": 0.2}
    assert run_job(folder, tmp_path / "folder", **job) == 0
    assert run_job(packed_set, tmp_path / "packed", **job) == 0
    assert result_of(tmp_path / "packed")["weights_sha256"] == result_of(tmp_path / "folder")["weights_sha256"]
    assert values_of(tmp_path / "packed") == values_of(tmp_path / "folder")
    skipped = [json.loads(line)["path"] for line in (tmp_path / "packed/skipped.jsonl").read_text().splitlines()]
    assert sorted(skipped) == sorted(BAD)
