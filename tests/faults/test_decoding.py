"""Every image that cameras, editors and attackers write is read alike by all commands, as Pillow reads it, or refused.

The files are those of ``tests/helpers/image_cases.py``.
"""

import io
import json
import sys
from random import Random

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.image_cases import Case, cases, encoded, entry, picture, segment, tiff
from tests.helpers.tiny_export import SIZE, write_export
from trainer import predict
from trainer.core import cli
from trainer.core.config import MAX_IMAGE_PIXELS, DataConfig
from trainer.data import decode, decode_batch, manifest
from trainer.data.audit import measure
from trainer.data.formats import image_format, orientation, orientation_ops, rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.image_source import ImageSource
from trainer.data.input_rule import InputRule
from trainer.data.pack import convert
from trainer.data.pack.request import PackFlags
from trainer.serving import saved_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # About damaged metadata.

BY_NAME = {case.name: case for case in cases()}


def named(function):
    return pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)(function)


def assert_pixels(case: Case, pixels: np.ndarray) -> None:
    expected = case.expected()
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= case.tolerance


def graph(content: bytes, limit: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    return decode.decode_one(limit)(tf.constant(content)).numpy()


@named
def test_an_image_is_read_as_pillow_reads_it_or_refused_by_name(case):
    if case.refusal:
        with pytest.raises(Unreadable, match=case.refusal.replace("(", r"\(")):
            decode_batch.decode_image(case.content)
    else:
        assert_pixels(case, decode_batch.decode_image(case.content))


@named
def test_the_graph_of_an_export_gives_the_same_pixels_or_refuses(case):
    if case.graph:
        assert np.array_equal(graph(case.content), decode_batch.decode_image(case.content))
        return
    with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
        graph(case.content)
    reason = decode.reason(refusal.value)
    assert len(reason) < 300
    name = image_format.name(case.content)
    assert name in reason
    if not name.startswith(("JPEG", "PNG")):
        assert any(word in reason for word in ("save", "shrink")), reason


@named
def test_the_audit_and_pack_read_it_too(case):
    row = np.zeros(1, measure.IMAGE)[0]
    content, reason = convert.convert(case.content, PackFlags())
    if case.refusal:
        assert case.refusal in reason
        with pytest.raises(measure.BadImage):
            measure.measure(row, case.content, MAX_IMAGE_PIXELS)
        return
    assert not reason
    measure.measure(row, case.content, MAX_IMAGE_PIXELS)
    expected = case.expected()
    assert abs(row["red"] - expected[..., 0].mean()) < 0.5
    # Whoever reads the packed set gets the pixels, however little he knows of formats and orientations.
    packed = decode_batch.decode_image(content)
    assert np.array_equal(packed, decode_batch.decode_image(case.content))
    if content != case.content:
        assert image_format.name(content) == "PNG"
    else:
        assert image_format.name(content) in ("JPEG", "PNG")
        assert orientation.of(content) == 1


def test_the_audit_sees_a_picture_turned_by_exif_as_the_turned_picture():
    rows = np.zeros(2, measure.IMAGE)
    for row, name in zip(rows, ("exif_6.png", "plain.png"), strict=True):
        measure.measure(row, BY_NAME[name].content, MAX_IMAGE_PIXELS)
    assert rows["phash"][0] != rows["phash"][1]
    measure.measure(rows[1], encoded("PNG", picture().transpose(Image.Transpose.ROTATE_270)), MAX_IMAGE_PIXELS)
    assert rows["phash"][0] == rows["phash"][1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a data_dir with every case in Train/Fake and one good image in Train/Real."""
    root = tmp_path_factory.mktemp("cases")
    for case in cases():
        path = root / "Train" / "Fake" / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.content)
    (root / "Train" / "Real").mkdir()
    (root / "Train" / "Real" / "plain.png").write_bytes(encoded("PNG"))
    return root


def resized(case: Case) -> np.ndarray:
    return decode.resize(tf.constant(decode_batch.decode_image(case.content)), SIZE).numpy()


@pytest.mark.slow
def test_training_reads_all_of_them_in_batches(folder):
    split = manifest.read_split(str(folder), "Train")
    loaded = ImageSource(split, DataConfig(image_size=SIZE)).load(np.arange(len(split)))
    for number, name in enumerate(split.names):
        case = BY_NAME[name.rsplit("/", 1)[1]]
        assert (number in loaded.errors) == bool(case.refusal), name
        if case.refusal:
            assert case.refusal in loaded.errors[number]
        else:
            assert np.array_equal(loaded.images[number], resized(case)), name


@pytest.mark.slow
def test_predict_scores_what_training_reads(folder, tmp_path):
    """The tiny export's p_fake is the mean red of the pixels that it sees."""
    export = write_export(tmp_path / "export" / "1", ["Fake", "Real"], explains=True)
    words = [f"--model_dir={export}", str(folder / "Train" / "Fake"), f"--out={tmp_path / 'scores.jsonl'}"]
    assert cli.run_command(predict.main, [*words, f"--explain={tmp_path / 'maps'}"]) in (0, 1)
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert {row["path"].rsplit("/", 1)[1] for row in rows} == set(BY_NAME)
    for row in rows:
        case = BY_NAME[row["path"].rsplit("/", 1)[1]]
        if case.refusal:
            assert case.refusal in row["error"], case.name
        else:
            assert row["error"] is None, case.name
            assert row["p_fake"] == pytest.approx(resized(case)[..., 0].mean() / 255, abs=1e-5), case.name
            with Image.open(row["heatmap"]) as drawn:
                assert drawn.height == case.expected().shape[0]


def test_the_limit_holds_for_what_pillow_reads():
    for form in ("GIF", "TIFF", "AVIF"):
        assert rescue.decode(encoded(form), 32 * 48).shape == (32, 48, 3)
        with pytest.raises(Unreadable, match=r"at most 1535 pixels .* received 1536 in a "):
            rescue.decode(encoded(form), 32 * 48 - 1)


def test_pillows_own_limit_does_not_count_and_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert rescue.decode(encoded("TIFF")).shape == (32, 48, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_heic_without_its_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Unreadable, match="HEIC needs the package pillow-heif; pip install pillow-heif"):
        decode_batch.decode_image(BY_NAME["plain.heic"].content)


def random_exif(random: Random) -> bytes:
    """Return a TIFF structure with an orientation among other entries, some bytes of it changed or cut off."""
    order = random.choice("<>")
    kinds = (1, 2, 3, 4, 7, 8, 9, 13)
    others = random.sample([0x10F, 0x110, 0x11A], random.randrange(4))
    entries = [
        entry(order, tag, random.choice(kinds), random.randrange(200), random.choice([1, 1, 2, 9])) for tag in others
    ]
    turn = entry(order, 0x112, random.choice([3, 3, 4, 8]), random.randrange(10))
    entries.insert(random.randrange(len(entries) + 1), turn)
    data = bytearray(tiff(order, entries))
    if random.random() < 0.3:
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data[: random.choice([len(data), len(data), random.randrange(len(data))])])


@pytest.mark.slow
def test_damaged_exif_turns_a_picture_as_in_pillow_and_in_the_graph():
    random, plain = Random(0), encoded("JPEG")
    signature = [tf.TensorSpec([], tf.string)]
    in_graph = tf.function(orientation_ops.of, input_signature=signature, autograph=False).get_concrete_function()
    turns = set()
    for _ in range(300):
        content = plain[:2] + segment(0xE1, b"Exif\0\0" + random_exif(random)) + plain[2:]
        turn = orientation.of(content)
        try:
            with Image.open(io.BytesIO(content)) as image:
                of_pillow = image.getexif().get(0x112, 1)
        except (SyntaxError, OSError, ValueError):  # Damaged beyond what Pillow can stand.
            of_pillow = 1
        assert turn == (of_pillow if of_pillow in range(1, 9) else 1), content
        assert int(in_graph(tf.constant(content))) == turn, content
        turns.add(turn)
    assert turns == set(range(1, 9))


@pytest.mark.slow
def test_the_limit_of_an_export_is_that_of_its_training():
    layers = [keras.Input([SIZE, SIZE, 3]), keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax()]
    model = keras.Sequential(layers)
    names, image = ["Fake", "Real", "Drawn"], tf.constant([encoded("PNG")])
    for metadata, is_taken in (
        ({"config": {"max_image_pixels": 1535}}, False),
        ({"config": {"max_image_pixels": 1535}, "max_image_pixels": 1536}, True),
        ({}, True),  # Of an older version.
    ):
        limit = saved_model.max_pixels(metadata)
        serving = saved_model.ServingModel(model, names, 0, 0.5, InputRule(SIZE), max_pixels=limit)
        if is_taken:
            assert serving.serve_bytes(image)["probabilities"].shape == (1, 3)
            continue
        with pytest.raises(tf.errors.InvalidArgumentError, match="at most 1535 pixels"):
            serving.serve_bytes(image)
