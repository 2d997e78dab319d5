"""The audit: planted faults are found, nothing else is, and odd files do it no harm."""

import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import image_cases
from tests.helpers.commands import refusal
from tests.helpers.images import write_image_set
from tests.reports.test_training_report import check_page
from trainer import prepare_data
from trainer.core import cli
from trainer.core.config import MAX_IMAGE_PIXELS, DataConfig
from trainer.data.audit import cues, duplicates, measure, scan, summary
from trainer.data.audit.request import AuditFlags
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split, read_all_splits, read_split
from trainer.data.pack.request import PackFlags
from trainer.data.pack.writer import pack

ROOT = Path(__file__).resolve().parents[2]


def audit(data_dir, out, *words):
    """Run the command on one process; return its exit code and audit.json."""
    code = cli.run_command(prepare_data.audit, [f"--data_dir={data_dir}", f"--out={out}", "--workers=1", *words])
    return code, json.loads((Path(out) / "audit.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_a_packed_set_is_refused_and_not_called_broken(clean, tmp_path, capsys):
    pack(PackFlags(data_dir=str(clean), out=str(tmp_path / "packed")), read_all_splits(str(clean)))
    assert "packed set" in refusal(
        capsys, prepare_data.audit, f"--data_dir={tmp_path / 'packed'}", f"--out={tmp_path / 'out'}"
    )
    assert not (tmp_path / "out").exists()


def records_of(data_dir):
    return scan.scan(read_all_splits(str(data_dir)), workers=1)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Return a data set without faults, 30, 10 and 10 images a class; read only."""
    return Path(write_image_set(tmp_path_factory.mktemp("clean"), train=30, validation=10, test=10))


@pytest.fixture
def data(clean, tmp_path):
    """Return a copy of it to put faults into."""
    return Path(shutil.copytree(clean, tmp_path / "data"))


def resave(source, target, *, scale=1.0, quality=60):
    with Image.open(source) as image:
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size).save(target, quality=quality)


def pairs(found):
    names = found.records.names
    return {frozenset((names[pair.first], names[pair.second])) for pair in found.near}


def png_header(width, height):
    """Return a PNG that says how large it is and then holds a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(50))), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


# Duplicates.


def test_clean_data_has_no_duplicates_and_only_the_cue_that_it_has(clean, tmp_path):
    code, report = audit(clean, tmp_path, "--strict")
    assert code == 0
    assert report["exact"]["groups"] == 0
    assert report["near"]["listed"] == []
    assert report["strict_failures"] == report["drop_leaks"] == report["bad"] == []
    file_cues = {cue["name"]: max(cue["auc"].values()) for cue in report["cues"] if cue["level"] == "file"}
    # The square that only Fake has costs bytes.
    flagged = {cue["name"] for cue in report["cues"] if cue["flagged"] and cue["level"] == "file"}
    assert flagged == {"file_bytes", "bits_per_pixel"}
    assert file_cues["width"] == file_cues["jpeg_quality"] == file_cues["format"] == 0.5


def test_planted_duplicates_are_found_and_nothing_else(data):
    shutil.copy(data / "Train/Real/00001.jpg", data / "Train/Real/copy.jpg")
    shutil.copy(data / "Train/Real/00002.jpg", data / "Train/Fake/conflict.jpg")
    shutil.copy(data / "Validation/Fake/00003.jpg", data / "Test/Fake/leak.jpg")
    resave(data / "Train/Real/00004.jpg", data / "Test/Real/recompressed.jpg", quality=40)
    resave(data / "Train/Real/00005.jpg", data / "Validation/Real/smaller.jpg", scale=0.6)
    resave(data / "Train/Real/00006.jpg", data / "Train/Fake/larger.jpg", scale=1.7)
    resave(data / "Test/Real/00007.jpg", data / "Test/Real/inside.jpg")
    found = duplicates.find(records_of(data))
    names = found.records.names
    assert {frozenset(names[index] for index in group) for group in found.exact} == {
        frozenset(("Train/Real/00001.jpg", "Train/Real/copy.jpg")),
        frozenset(("Train/Real/00002.jpg", "Train/Fake/conflict.jpg")),
        frozenset(("Validation/Fake/00003.jpg", "Test/Fake/leak.jpg")),
    }
    assert pairs(found) == {
        frozenset(("Train/Real/00004.jpg", "Test/Real/recompressed.jpg")),
        frozenset(("Train/Real/00005.jpg", "Validation/Real/smaller.jpg")),
        frozenset(("Train/Real/00006.jpg", "Train/Fake/larger.jpg")),
        frozenset(("Test/Real/00007.jpg", "Test/Real/inside.jpg")),
    }
    assert found.near_counts == {"across_splits": 2, "across_classes": 1, "inside": 1}
    assert [sorted(names[index] for index in group) for group in found.label_conflicts] == [
        ["Train/Fake/conflict.jpg", "Train/Real/00002.jpg"]
    ]
    assert found.shared("Train", "Test") == (0, 1)
    assert found.shared("Train", "Validation") == (0, 1)
    assert found.shared("Validation", "Test") == (1, 0)


def test_what_is_dropped_comes_from_the_earlier_split_and_never_from_test(data):
    shutil.copy(data / "Train/Real/00001.jpg", data / "Test/Real/a.jpg")
    shutil.copy(data / "Train/Real/00001.jpg", data / "Train/Real/twice.jpg")
    resave(data / "Train/Fake/00002.jpg", data / "Validation/Fake/b.jpg")
    resave(data / "Validation/Real/00003.jpg", data / "Test/Fake/c.jpg")
    shutil.copy(data / "Train/Real/00009.jpg", data / "Train/Real/stays.jpg")
    dropped = duplicates.leaks(records_of(data))
    assert dropped == {
        "Train/Real/00001.jpg", "Train/Real/twice.jpg", "Train/Fake/00002.jpg", "Validation/Real/00003.jpg",
    }  # fmt: skip
    for name in dropped:
        (data / name).unlink()
    assert duplicates.leaks(records_of(data)) == set()


def test_flat_images_are_compared_byte_for_byte_only(data):
    for level in (10, 11, 12, 200):
        Image.new("RGB", (64, 64), (level,) * 3).save(data / f"Train/Real/flat{level}.png")
        Image.new("RGB", (64, 64), (level + 20,) * 3).save(data / f"Test/Fake/flat{level}.png")
    shutil.copy(data / "Train/Real/flat10.png", data / "Test/Real/flat.png")
    found = duplicates.find(records_of(data))
    assert found.near == ()
    assert duplicates.to_drop(found) == {"Train/Real/flat10.png"}
    assert int(found.records.table["flat"].sum()) == 9


def synthetic(hashes, fingerprints=None, splits=(("Train", 0), ("Test", 0))):
    """Return records of these 64-bit hashes, all with the same fingerprint, divided evenly among the splits."""
    table = np.zeros(len(hashes), measure.IMAGE)
    table["ok"], table["phash"] = True, hashes
    table["fingerprint"] = np.arange(256) if fingerprints is None else fingerprints
    random = np.random.default_rng(0)
    table["sha256"] = [random.bytes(32) for _ in hashes]
    table["split"] = np.arange(len(hashes)) * len(splits) // len(hashes)
    parts = []
    for number, (name, _) in enumerate(splits):
        count = int((table["split"] == number).sum())
        names = tuple(f"{name}/Real/{index:07d}.jpg" for index in range(count))
        parts.append(Split(name, "absent", ("Fake", "Real"), names, np.ones(count, np.int32)))
    table["label"] = 1
    return scan.Records(tuple(parts), table, {})


@pytest.mark.parametrize("limit", [0, 3, 6, 7])
def test_the_search_finds_the_pairs_of_a_comparison_of_all_with_all(limit):
    random = np.random.default_rng(limit)
    bases = random.integers(0, 1 << 63, 60, dtype=np.uint64)
    flips = np.zeros(1200, np.uint64)
    for index in range(len(flips)):
        for bit in random.choice(64, random.integers(0, 8), replace=False):
            flips[index] |= np.uint64(1) << np.uint64(bit)
    hashes = np.repeat(bases, 20) ^ flips
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(distances <= limit, 1))
    found = duplicates.find(synthetic(hashes), limit)
    assert found.complete
    assert sum(found.near_counts.values()) == len(expected) > 100 * (limit > 0)
    assert {(pair.first, pair.second) if pair.first < pair.second else (pair.second, pair.first)
            for pair in found.near} == set(map(tuple, expected.tolist()))  # fmt: skip
    assert all(pair.distance == distances[pair.first, pair.second] for pair in found.near)


def test_like_hashes_of_unlike_pictures_are_no_pair():
    random = np.random.default_rng(0)
    found = duplicates.find(synthetic(np.full(50, 5, np.uint64), random.integers(0, 256, [50, 256])))
    assert found.near == ()


def test_a_hash_that_very_many_share_is_cut_short_and_says_so(monkeypatch):
    monkeypatch.setattr(duplicates, "_WINDOW", 50)
    monkeypatch.setattr(duplicates, "_LISTED", 300)
    found = duplicates.find(synthetic(np.full(200, 5, np.uint64)))
    assert not found.complete
    assert 200 * 25 < sum(found.near_counts.values()) < 200 * 199 / 2
    assert len(found.near) <= 2 * 300


MEMORY = r"""
import re
from pathlib import Path
import numpy as np
from tests.data.test_audit import synthetic
from trainer.data.audit import cues, duplicates, summary
random = np.random.default_rng(0)
hashes = random.integers(0, 1 << 63, 150_000, dtype=np.uint64)
hashes[100_000:] = hashes[:50_000] ^ np.uint64(9)
records = synthetic(hashes)
records.table["width"] = records.table["height"] = 64
found = duplicates.find(records)
summary.summarise(found, cues.find(records), set(), {})
peak = re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())  # ru_maxrss begins with the parent's.
print(sum(found.near_counts.values()), int(peak[1]) // 1024)
"""


@pytest.mark.slow
def test_the_search_of_many_images_stays_small():
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    found, mebibytes = map(int, done.stdout.split())
    assert found == 50_000
    assert mebibytes < 1500  # TensorFlow, which conftest imports, included.


# Cues.


@pytest.mark.slow
def test_a_planted_jpeg_quality_is_found_and_unplanted_cues_are_not(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("Train", 60), ("Test", 30)):
        for name, quality in (("Fake", 95), ("Real", 70)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(60, 190, [4, 4, 3], dtype=np.uint8)
                picture = Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC)
                picture.save(folder / f"{number}.jpg", quality=quality)
    _, report = audit(tmp_path / "data", tmp_path / "out")
    by_name = {cue["name"]: cue for cue in report["cues"]}
    quality = by_name["jpeg_quality"]
    assert quality["auc"] == {"Train": 1.0, "Test": 1.0}
    assert quality["flagged"] == ["Train", "Test"]
    assert quality["typical"]["Train"] == {"Fake": 95.0, "Real": 70.0}
    assert report["cues"][0]["auc"]["Train"] == 1.0  # The most telling first.
    for name in ("width", "height", "aspect_ratio", "format", "extension", "exif", "icc", "progressive", "mode"):
        assert by_name[name]["auc"]["Train"] == 0.5, name
    for name in ("brightness", "red", "green", "blue"):
        assert by_name[name]["auc"]["Train"] < 0.7
        assert not by_name[name]["flagged"], name


def test_the_auc_of_a_rank_cue_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 4000)
    values = np.round(random.normal(labels * 0.7, 1.0), 1)
    expected = roc_auc_score(labels, values)
    assert cues.class_auc(values, labels) == pytest.approx(expected, abs=0.01)
    assert cues.class_auc(-values, labels) == pytest.approx(expected, abs=0.01)


def test_a_cue_that_is_not_monotonic_is_found():
    random = np.random.default_rng(2)
    labels = np.arange(2000) % 2
    values = np.where(labels == 1, 256.0, random.uniform(100, 412, 2000))
    assert cues.class_auc(values, labels) > 0.95


def test_copies_make_no_cue():
    random = np.random.default_rng(3)
    records = synthetic(random.integers(0, 1 << 63, 120, dtype=np.uint64), splits=(("Train", 0),))
    records.table["label"] = np.arange(120) % 2
    records.table["width"] = records.table["height"] = 64
    records.table["bytes"] = random.permutation(10_000)[:120]
    many = scan.Records(records.splits, np.repeat(records.table, 30), {})
    (finding,) = [finding for finding in cues.find(many) if finding.cue.name == "file_bytes"]
    assert not finding.flagged
    assert finding.auc == {each.cue.name: each.auc for each in cues.find(records)}["file_bytes"]


def test_categories_and_several_classes():
    labels = np.arange(900) % 3
    assert cues.class_auc(np.array(["a", "b", "c"])[labels], labels) == 1.0
    assert cues.class_auc(np.array(["a", "b", "b"])[labels], labels) == pytest.approx((1 + 0.75 + 0.75) / 3, abs=0.02)
    assert cues.class_auc(np.full(900, "JPEG"), labels) == 0.5
    assert cues.class_auc(np.random.default_rng(0).normal(size=900), labels) < 0.56
    assert cues.class_auc(np.zeros(5), np.ones(5)) is None


@pytest.mark.parametrize("quality", [1, 10, 37, 50, 75, 90, 95, 100])
def test_jpeg_quality_is_that_of_the_encoder(quality):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 30)).save(buffer, "JPEG", quality=quality, subsampling=1)
    row = np.zeros(1, measure.IMAGE)[0]
    measure.measure(row, buffer.getvalue(), 1000)
    assert row["quality"] == quality
    assert row["subsampling"] == 1
    assert row["format"] == "JPEG"


# What is measured.


def test_header_container_and_light_of_an_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    pixels = np.zeros([20, 30, 3], np.uint8)
    pixels[:10] = (200, 100, 0)
    Image.fromarray(pixels).save(
        buffer,
        "JPEG",
        quality=95,
        subsampling=0,
        progressive=True,
        exif=exif,
        icc_profile=b"x" * 200,
        comment=b"made by",
    )
    row = np.zeros(1, measure.IMAGE)[0]
    measure.measure(row, buffer.getvalue(), 600)
    assert (row["width"], row["height"], row["bytes"]) == (30, 20, len(buffer.getvalue()))
    assert row["ok"]
    assert row["progressive"]
    assert row["exif"]
    assert row["icc"]
    assert row["other_metadata"]
    assert (row["orientation"], row["subsampling"], row["mode"]) == (6, 0, "RGB")
    gray = 0.299 * 200 + 0.587 * 100
    assert row["brightness"] == pytest.approx(gray / 2, abs=2)
    assert row["contrast"] == pytest.approx(gray / 2, abs=2)
    assert [row[name] for name in ("red", "green", "blue")] == pytest.approx([100, 50, 0], abs=3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_all_colour_modes_have_the_same_light(mode):
    ramp = np.tile(np.linspace(40, 200, 64).astype(np.uint8), (64, 1))
    image = (
        Image.fromarray(ramp.astype(np.uint16) << 8)
        if mode == "I;16"
        else Image.fromarray(ramp).convert("RGB").convert(mode)
    )
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    row = np.zeros(1, measure.IMAGE)[0]
    measure.measure(row, buffer.getvalue(), 10_000)
    assert row["brightness"] == pytest.approx(120, abs=3)


# Bad files.


def test_bad_files_are_named_with_a_reason_and_end_nothing(data, tmp_path):
    good = (data / "Train/Real/00000.jpg").read_bytes()
    folder = data / "Train/Real"
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "bomb.png").write_bytes(png_header(30_000, 30_000))
    (folder / "short.png").write_bytes(png_header(30, 30))
    (folder / "dangling.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    Image.open(folder / "00001.jpg").transpose(Image.Transpose.ROTATE_90).save(folder / "scan.tif")
    before = Image.MAX_IMAGE_PIXELS
    code, report = audit(data, tmp_path / "out")
    assert code == 0
    assert before == Image.MAX_IMAGE_PIXELS
    reasons = {Path(cli["path"]).name: cli["reason"] for cli in report["bad"]}
    assert sorted(reasons) == ["bomb.png", "cut.jpg", "dangling.jpg", "empty.jpg", "short.png", "text.png"]
    assert "received 900000000 in a PNG" in reasons["bomb.png"]
    assert "--max_image_pixels" in reasons["bomb.png"]
    assert "truncated" in reasons["cut.jpg"]
    assert "No such file" in reasons["dangling.jpg"]
    assert reasons["empty.jpg"] == "the file is empty; replace or remove it"
    assert "format" in reasons["text.png"]
    assert report["counts"]["Train"]["Real"] == {"images": 37, "bad": 6}
    assert report["rescued"] == {"by Pillow": 1}
    rows = list(csv.DictReader((tmp_path / "out" / "rescued.csv").read_text().splitlines()))
    assert rows == [{"path": "Train/Real/scan.tif", "format": "TIFF", "how": "by Pillow"}]
    assert report["exact"]["groups"] == 0
    assert scan.bad_images(records_of(data)) == {f"Train/Real/{name}": why for name, why in reasons.items()}


# Only TensorFlow's decoder finds fault with a PNG without its end, and an audit does not load it.
READ = [case for case in image_cases.cases() if not case.refusal and case.name != "without_end.png"]


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_images_that_not_every_decoder_reads_are_told(case):
    row = np.zeros(1, measure.IMAGE)[0]
    measure.measure(row, case.content, MAX_IMAGE_PIXELS)
    assert row["rescued"] == (2 if case.drawn else case.name.endswith(".gif") or not case.graph)


def test_a_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    row = np.zeros(1, measure.IMAGE)[0]
    with pytest.raises(measure.BadImage, match="received 900000000 in a PNG"):
        measure.measure(row, png_header(30_000, 30_000), MAX_IMAGE_PIXELS)
    assert not row["ok"]


def test_the_limit_of_pixels_is_a_flag(clean, tmp_path):
    _, report = audit(clean, tmp_path, "--max_image_pixels=4095")
    assert len(report["bad"]) == report["images"] == 100
    assert report["figures"]["Train"]["Real"]["width"] is None
    assert (tmp_path / "audit.html").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_bad(data):
    (data / "Train/Real/00000.jpg").chmod(0)
    assert scan.bad_images(records_of(data)) == {"Train/Real/00000.jpg": "cannot be read: Permission denied"}


@pytest.mark.slow
def test_training_skips_no_image_that_the_audit_reads(data, tmp_path):
    picture = Image.open(data / "Train/Real/00000.jpg")
    picture.save(data / "Train/Real/a.tiff")
    picture.convert("P").save(data / "Train/Real/b.bmp")
    picture.save(data / "Train/Real/c.bmp")
    picture.putalpha(100)
    picture.save(data / "Train/Real/d.webp", lossless=True)
    _, report = audit(data, tmp_path / "out")
    assert report["bad"] == []
    assert report["training_skips"] == []
    source = ImageSource(read_split(str(data), "Train"), DataConfig(image_size=16))
    assert source.load(np.arange(len(records_of(data).splits[0]))).errors == {}


ODD = ["with space.jpg", "ümlaut 😀.jpg", "line\nbreak.jpg", "-leading.jpg", "<b>&amp;\"'.jpg", "no extension"]


@pytest.mark.slow
def test_odd_names_and_links_work_everywhere(data, tmp_path):
    folder = data / "Train/Fake"
    for number, name in enumerate(ODD):
        shutil.copy(data / f"Train/Real/{number:05d}.jpg", folder / name)
    raw = os.fsencode(folder) + b"/\xff\xfe bytes.jpg"
    shutil.copy(data / "Test/Real/00001.jpg", raw)
    (folder / "link.jpg").symlink_to(data / "Test/Real/00002.jpg")
    (folder / "nested").symlink_to(folder, target_is_directory=True)
    (folder / "<i>bad\n\udcff.png").write_text("x")
    _, report = audit(data, tmp_path / "out")
    groups = {path for group in report["exact"]["listed"] for path in group["paths"]}
    assert {f"Train/Fake/{name}" for name in ODD} <= groups
    assert r"Train/Fake/\xff\xfe bytes.jpg" in groups
    assert "Train/Fake/link.jpg" in groups
    assert [cli["path"] for cli in report["bad"]] == ["Train/Fake/<i>bad\n\\xff.png"]
    check_page((tmp_path / "out" / "audit.html").read_text(encoding="utf-8"))
    (dropped,) = [name for name in duplicates.leaks(records_of(data)) if "bytes" in name]
    assert os.fsencode(dropped) == b"Train/Fake/\xff\xfe bytes.jpg"  # The real name: others delete by it.


# The command.


@pytest.mark.slow
def test_the_page_is_whole_and_shows_what_was_found(data, tmp_path):
    shutil.copy(data / "Train/Real/00001.jpg", data / "Test/Real/leak.jpg")
    _, report = audit(data, tmp_path / "out")
    text = (tmp_path / "out" / "audit.html").read_text()
    page = check_page(text)
    assert report["strict_failures"][0] in text
    alts = [image["alt"] for image in page.images]
    assert alts.count("Test/Real/leak.jpg") >= 1
    assert len([alt for alt in alts if alt.startswith("Validation/Fake/")]) == 6
    assert all(image["src"].startswith("data:image/jpeg") for image in page.images)
    for title in (
        "Width and height",
        "File size",
        "Brightness",
        "JPEG quality",
        "Formats",
        "What gives the class away",
    ):
        assert title in text


def failures(data_dir):
    return summary.strict_failures(duplicates.find(records_of(data_dir)))


@pytest.mark.slow
def test_strict_fails_for_leakage_and_label_conflicts_only(data, tmp_path, capsys):
    resave(data / "Train/Real/00001.jpg", data / "Train/Fake/forgery.jpg")  # As a forgery looks like its source.
    shutil.copy(data / "Train/Real/00002.jpg", data / "Train/Real/twice.jpg")
    (data / "Train/Real/broken.jpg").write_text("x")
    assert failures(data) == []
    resave(data / "Train/Real/00003.jpg", data / "Test/Fake/near.jpg")
    assert failures(data) == ["0 images of Train are in Test too, and 1 more look like one there"]
    (data / "Test/Fake/near.jpg").unlink()
    shutil.copy(data / "Train/Real/00004.jpg", data / "Train/Fake/conflict.jpg")
    code, report = audit(data, tmp_path / "out", "--strict")
    assert (code, len(report["strict_failures"])) == (1, 1)
    assert report["near"]["across_classes"] == 1
    assert "PROBLEM" in capsys.readouterr().out
    assert audit(data, tmp_path / "out")[0] == 0


def test_the_defaults_of_the_command_are_those_of_the_functions():
    default = AuditFlags()
    assert default.max_image_pixels == MAX_IMAGE_PIXELS
    assert default.near_distance == duplicates.NEAR_DISTANCE
    assert default.cue_auc == cues.FLAG_AUC


@pytest.mark.slow
def test_train_alone_and_three_classes(tmp_path):
    data_dir = write_image_set(tmp_path / "data", train=8, validation=0, test=0, classes=("a", "b", "c d"))
    code, report = audit(data_dir, tmp_path / "out", "--strict")
    assert code == 0
    assert report["counts"] == {"Train": {name: {"images": 8, "bad": 0} for name in ("a", "b", "c d")}}
    assert report["leakage"] == {}
    assert not (set(Path(data_dir).iterdir()) - {Path(data_dir) / "Train"})


@pytest.mark.slow
def test_an_empty_class_of_test_is_no_fault(data, tmp_path):
    shutil.rmtree(data / "Test/Real")
    _, report = audit(data, tmp_path / "out")
    assert report["counts"]["Test"]["Real"] == {"images": 0, "bad": 0}
    assert {cue["auc"]["Test"] for cue in report["cues"]} == {None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one of the commands audit"),
        (["audit", "--data_dir", "absent", "--out", "o"], "no folder 'absent/Train'"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (["audti"], "received audti"),
                (["audit"], "expected --data_dir"),
                (["audit", "--data_dir=absent", "--out=o", "more"], "expected only flags"),
                (["audit", "--near_distance=8"], "--near_distance"),
                (["audit", "--strickt"], "did you mean 'strict'"),
            )
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_costs_little(words, message, tmp_path):
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    assert not {'tensorflow', 'matplotlib', 'PIL'} & set(sys.modules), 'heavy'\n"
    )
    script = str(ROOT / "scripts" / "prepare_data.py")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = {[script, *words]!r}\n{code}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_with_several_processes_gives_the_same_without_tensorflow(data, tmp_path):
    (data / "Train/Fake/bad.jpg").write_text("x")
    alone = audit(data, tmp_path / "one")[1]
    code = (
        "import runpy, sys\n"
        "if __name__ == '__main__':\n"
        "    try:\n        runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "    finally:\n        assert 'tensorflow' not in sys.modules, 'heavy'\n"
    )
    (tmp_path / "run.py").write_text(
        f"import sys\nsys.argv = [{str(ROOT / 'scripts' / 'prepare_data.py')!r}, *sys.argv[1:]]\n{code}"
    )
    words = ["audit", "--data_dir", str(data), "--out", str(tmp_path / "two"), "--workers", "2", "--strict"]
    done = subprocess.run([sys.executable, tmp_path / "run.py", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith("Train: ")
    both = json.loads((tmp_path / "two" / "audit.json").read_text())
    alone["settings"].pop("created")
    both["settings"].pop("created")
    assert both == alone


def test_a_split_of_its_own_can_be_scanned(clean):
    records = scan.scan([read_split(str(clean), "Train")], workers=1, quiet=True)
    assert duplicates.leaks(records) == set()
    assert records.path(0) == f"{clean}/Train/Fake/00000.jpg"
